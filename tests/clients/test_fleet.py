import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clients import fleet as fleet_module
from clients.fleet import Device, Fleet, Jitter, read_trace, repeated
from echelon.algorithms.seeds import rng

INF = float("inf")
CHANCES = (0.0, 0.001, 0.01, 0.3, 0.5, 0.9, 1.0)


class TestJitter:
    def draws(self, jitter: Jitter, count: int = 4000) -> np.ndarray:
        generator = np.random.default_rng(3)
        return np.array([jitter.draw(generator) for _ in range(count)])

    def test_none(self) -> None:
        assert set(self.draws(Jitter(), 10)) == {1.0}

    def test_shifted_exponential(self) -> None:
        draws = self.draws(Jitter("shifted_exponential", scale=0.5))
        assert draws.min() >= 1
        assert draws.mean() == pytest.approx(1.5, abs=0.05)
        assert draws.std() == pytest.approx(0.5, abs=0.05)

    def test_log_normal(self) -> None:
        draws = np.log(self.draws(Jitter("log_normal", scale=0.3)))
        assert draws.mean() == pytest.approx(0.0, abs=0.03)
        assert draws.std() == pytest.approx(0.3, abs=0.03)

    def test_slowdown(self) -> None:
        draws = self.draws(Jitter("slowdown", probability=0.2, factor=3.0))
        assert set(draws) == {1.0, 3.0}
        assert (draws == 3).mean() == pytest.approx(0.2, abs=0.03)


class TestFleet:
    def test_devices_repeat_for_more_workers(self) -> None:
        fleet = Fleet(repeated((1.0, 0.5), 100.0, 0.01, 1e6))
        assert [fleet.device(rank).samples_per_second for rank in range(5)] == [100, 50, 100, 50, 100]
        assert fleet.device(3) == Device(50.0, 0.01, 1e6)

    def durations(self, fleet: Fleet, seed: int, rank: int, server_round: int) -> list[float]:
        clock, seen = fleet.clock(seed, rank, server_round), []
        for _ in range(6):
            before = clock.seconds
            clock.tick(1)
            seen.append(clock.seconds - before)
        return seen

    def test_jitter_depends_on_seed_rank_and_round_alone(self) -> None:
        fleet = Fleet((Device(1.0),), Jitter("log_normal", scale=1.0))
        first = self.durations(fleet, 1, 2, 3)
        assert self.durations(fleet, 1, 2, 3) == first
        for place in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
            assert self.durations(fleet, *place) != first

    def test_all_are_online_by_default(self) -> None:
        assert Fleet((Device(1.0),)).seconds_away(0, 0, 5, 1e9) == 0


class TestChurn:
    def away(self, fleet: Fleet, rank: int, rounds: int, seed: int = 0) -> np.ndarray:
        return np.array([fleet.seconds_away(seed, rank, number, 0.0) > 0 for number in range(1, rounds + 1)])

    def test_leaving_permanently(self) -> None:
        fleet = Fleet((Device(1.0),), leave_probability=0.3, return_probability=0.0)
        away = self.away(fleet, 0, 30)
        first = int(np.argmax(away))
        assert away.any()
        assert away[first:].all()

    def test_a_certain_leave_alternates_with_a_certain_return(self) -> None:
        fleet = Fleet((Device(1.0),), leave_probability=1.0, return_probability=1.0)
        assert self.away(fleet, 0, 6).tolist() == [True, False] * 3

    def test_share_of_the_chain(self) -> None:
        """A two-state chain with rates 0.1 and 0.3 is offline for 0.1 / (0.1 + 0.3) of the time."""
        fleet = Fleet((Device(1.0),), leave_probability=0.1, return_probability=0.3)
        shares = [self.away(fleet, rank, 400).mean() for rank in range(10)]
        assert np.mean(shares) == pytest.approx(0.25, abs=0.04)
        assert len(set(shares)) > 1, "every worker has its own history"

    @given(st.sampled_from(CHANCES), st.sampled_from(CHANCES), st.integers(0, 3), st.integers(0, 600))
    @example(0.5, 0.5, 1, 600)  # no draw decides
    @example(0.001, 0.01, 1, 600)
    def test_presence_is_that_of_a_replay_from_the_first_round(
        self, leave: float, back: float, rank: int, rounds: int
    ) -> None:
        fleet = Fleet(repeated((1.0,), 100.0, 0.0, INF), leave_probability=leave, return_probability=back)
        offline = False
        for draw in rng(7, "churn", rank).random(rounds):
            offline = draw >= back if offline else draw < leave
        assert (fleet.seconds_away(7, rank, rounds, 0.0) > 0) == offline

    def test_a_late_round_needs_no_more_draws_than_an_early_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fleet = Fleet(repeated((1.0,), 100.0, 0.0, INF), leave_probability=0.1, return_probability=0.5)
        drawn: list[int] = []
        draws = fleet_module._churn_draws

        def noted(seed: int, rank: int, begin: int, end: int) -> NDArray[np.float64]:
            drawn.append(end - begin)
            return draws(seed, rank, begin, end)

        monkeypatch.setattr(fleet_module, "_churn_draws", noted)
        for rank in range(100):
            fleet.seconds_away(0, rank, 1_000_000, 0.0)
        assert drawn == [64] * 100

    def test_somebody_looks_again_after_a_while(self) -> None:
        """With all workers offline the time of the run must still advance, up to the longest offline interval."""
        off = Device(1.0, on_intervals=((50.0, INF),))
        fleet = Fleet((Device(1.0), off), leave_probability=1.0, return_probability=0.0)
        assert fleet.seconds_away(0, 0, 1, 10.0) == 1.0
        assert fleet.seconds_away(0, 1, 1, 10.0) == 40.0


class TestOnAndOff:
    device = Device(1.0, on_intervals=((10.0, 20.0), (30.0, 40.0)))

    @pytest.mark.parametrize(
        ("now", "away"), [(0, 10), (9.5, 0.5), (10, 0), (19.9, 0), (20, 10), (29, 1), (35, 0), (40, INF), (99, INF)]
    )
    def test_seconds_away(self, now: float, away: float) -> None:
        assert self.device.seconds_away(now) == pytest.approx(away)


HEADER = "rank,samples_per_second,latency_seconds,bandwidth_bits_per_second"


class TestTrace:
    @pytest.fixture
    def trace(self, tmp_path: Path) -> Callable[..., Path]:
        def write(*lines: str) -> Path:
            path = tmp_path / "fleet.csv"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            return path

        return write

    def test_units_and_order(self, trace: Callable[..., Path]) -> None:
        path = trace(HEADER, "1,50,0.02,8e6", "0,100,0.01,1.6e7")
        assert read_trace(path, 2) == (Device(100.0, 0.01, 2e6), Device(50.0, 0.02, 1e6))

    def test_intervals_from_several_rows_in_any_order(self, trace: Callable[..., Path]) -> None:
        path = trace(f"{HEADER},on_seconds,off_seconds", "0,1,0,8,30,40", "0,1,0,8,10,20", "1,1,0,8,,", "2,1,0,8,5,")
        intervals = [device.on_intervals for device in read_trace(path, 3)]
        assert intervals == [((10, 20), (30, 40)), ((0, INF),), ((5, INF),)]

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (("rank,samples_per_second", "0,1"), "lacks the column latency_seconds; it needs rank, "),
            ((HEADER, "0,1,0,8"), "has no row for rank 1; 2 workers need one each"),
            ((HEADER, "0,1,0,8", "1,fast,0,8"), "line 3: samples_per_second must be a number; got fast"),
            ((HEADER, "0,1,0,8", "1,0,0,8"), "line 3: samples_per_second must be above 0 and finite; got 0"),
            ((HEADER, "0,1,0,-8", "1,1,0,8"), "line 2: bandwidth_bits_per_second must be above 0; got -8"),
            ((HEADER, "0,1,-1,8", "1,1,0,8"), "line 2: latency_seconds must be at least 0 and finite; got -1"),
            ((HEADER, "0,1,0,8", "1,nan,0,8"), "line 3: samples_per_second must be above 0 and finite; got nan"),
            ((HEADER, "0,1,0,8", "1,inf,0,8"), "line 3: samples_per_second must be above 0 and finite; got inf"),
            ((HEADER, "0,1,inf,8", "1,1,0,8"), "line 2: latency_seconds must be at least 0 and finite; got inf"),
            ((HEADER, "0,1,0,8", "1,,0,8"), "line 3: samples_per_second must be above 0 and finite; got nothing"),
            ((HEADER, "0,1,0,8", "1,1,0"), "line 3: bandwidth_bits_per_second must be above 0; got nothing"),
            ((HEADER, "0,1,0,8", "0.5,1,0,8", "1,1,0,8"), r"line 3: rank must be a whole number, at least 0; got 0\.5"),
            ((HEADER, "0,1,0,8", "1,1,0,8,9"), "line 3 has more values than the header has columns"),
            (
                (f"{HEADER},on_seconds,off_seconds", "0,1,0,8,20,10", "1,1,0,8,,"),
                "line 2: off_seconds must be above on_seconds, 20; got 10",
            ),
        ],
    )
    def test_errors_name_file_line_and_value(
        self, trace: Callable[..., Path], lines: tuple[str, ...], message: str
    ) -> None:
        path = trace(*lines)
        with pytest.raises(ValueError, match=message) as error:
            read_trace(path, 2)
        assert f"fleet.path {path}" in str(error.value)

    def test_an_unlimited_network(self, trace: Callable[..., Path]) -> None:
        assert math.isinf(read_trace(trace(HEADER, "0,1,0,inf"), 1)[0].bandwidth)
