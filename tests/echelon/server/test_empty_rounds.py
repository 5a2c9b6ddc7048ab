"""Rounds whose replies come later than budget and grace, or not at all: waited for, repeated, counted, and ended."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from echelon.server import attendance, exchange
from strategies import DPSGD, AllWorkersFailedError, NonBlocking
from tests import tiny
from tests.grids import Clock, DelayedGrid

RING = partial(DPSGD, "ring")
WORK = NonBlocking(batch_size=16, minibatch_size=4, trigger="deadline", deadline=1.0)
START: dict[str, Any] = {"timeout": 3600.0, "evaluate_fn": lambda server_round, arrays: None}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (attendance, exchange):
        monkeypatch.setattr(module, "time", made)
    return made


def delayed(clock: Clock, delay: Callable[[int, int, str], float], workers: int = 4) -> DelayedGrid:
    return DelayedGrid(tiny.app(devices=tiny.fleet(1)), workers, clock, delay)


def run(grid: DelayedGrid, rounds: int = 10, **options: Any) -> tiny.Run:
    chosen: dict[str, Any] = {"work": WORK, "grace_seconds": 5.0, "start": START, "stop": grid.clock, **options}
    return tiny.run(RING, rounds, on=grid, **chosen)


def training(seconds: Callable[[int, int], float]) -> Callable[[int, int, str], float]:
    return lambda rank, number, kind: seconds(rank, number) if kind == "train" else 0.0


def test_a_transport_slower_than_budget_and_grace_empties_no_round(clock: Clock) -> None:
    """Late replies of one round must not end the next one's wait for its first reply."""
    done = run(delayed(clock, training(lambda rank, number: 20.0 + rank)))
    present = done.column("present")
    assert all(present)
    assert present[-8:] == [[0, 1, 2, 3]] * 8, "the grace has followed the latency"


def test_the_grace_is_recorded_and_falls_when_replies_come_sooner(clock: Clock) -> None:
    done = run(delayed(clock, training(lambda rank, number: 20.0 if number < 4 else 1.0)), 12)
    grace = done.column("grace_seconds")
    assert grace[0] == 5.0
    assert 15.0 < max(grace) < 31.0, "at most three times the one before, and 1.5 times the latency"
    assert grace[-1] == 5.0, "the configured grace is the least"


def test_a_grace_that_is_not_to_adapt(clock: Clock) -> None:
    done = run(delayed(clock, training(lambda rank, number: 20.0 + rank)), 6, adapt_grace=False)
    assert set(done.column("grace_seconds")) == {5.0}
    assert all(done.column("present"))


def test_a_quarter_of_the_workers_does_not_prolong_the_rounds(clock: Clock) -> None:
    """Two of eight hold their replies back; the rounds end at the configured grace."""
    grid = delayed(clock, training(lambda rank, number: 500.0 if rank < 2 else 0.5), 8)
    done = tiny.run(RING, 6, 8, on=grid, work=WORK, grace_seconds=5.0, start=START, stop=clock)
    assert set(done.column("grace_seconds")) == {5.0}
    assert clock.now < 60.0


def test_the_others_have_a_grace_after_a_first_reply_that_came_late(clock: Clock) -> None:
    done = run(delayed(clock, training(lambda rank, number: 20.0 + rank)), 1)
    assert done.column("present") == [[0, 1, 2, 3]]


def test_thin_rounds_are_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    done = run(delayed(clock, training(lambda rank, number: 0.0 if rank == 0 or number != 2 else 50.0)), 4)
    assert done.column("present")[1:] == [[0]] * 3, "the others are busy with round 2"
    assert done.column("thin") == [False, True, True, True]
    assert "Round 2 is thin: only workers [0] took part" in caplog.text
    assert "3 of 4 rounds were thin" in caplog.text


class TestNobody:
    """An attempt without any usable reply is no progress: it is repeated, and a few in a row end the run."""

    def test_the_round_is_attempted_again(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        grid = delayed(clock, lambda *message: 0.0)
        failing(grid, lambda rank, attempt: attempt == 2)
        done = run(grid, 3)
        assert done.column("round") == [1, 2, 3]
        assert done.column("present") == [[0, 1, 2, 3]] * 3
        assert done.column("empty_attempts") == [0, 1, 0]
        assert "attempt 1 of 3" in caplog.text

    def test_several_in_a_row_end_the_run(self, clock: Clock) -> None:
        grid = delayed(clock, lambda *message: 0.0)
        failing(grid, lambda rank, attempt: attempt >= 2)
        rounds: list[int] = []
        with pytest.raises(AllWorkersFailedError, match=r"round 2: .*no more power.*; 2 attempts in a row"):
            run(grid, 3, max_empty_rounds=2, on_round=[lambda record, state: rounds.append(record["round"])])
        assert rounds == [1]

    def test_one_worker_that_fails_does_not_end_a_run_whose_others_are_busy(self, clock: Clock) -> None:
        """Round 1 is over without them; the free worker fails whenever it is asked until they are back."""
        grid = delayed(clock, training(lambda rank, number: 100.0 if rank and number == 1 else 0.0))
        failing(grid, lambda rank, attempt: rank == 0 and 2 <= attempt <= 4)
        done = run(grid, 4)
        assert done.column("present")[0] == [0]
        assert all(done.column("present"))

    def test_silence_ends_the_run_after_as_many_timeouts(self, clock: Clock) -> None:
        grid = delayed(clock, training(lambda rank, number: 1e9))
        with pytest.raises(AllWorkersFailedError, match=r"round 1: .*no worker replied in time.*; 3 attempts in a row"):
            run(grid, start={**START, "timeout": 100.0})
        assert 300 <= clock.now < 310

    def test_the_least_number_of_attempts(self) -> None:
        with pytest.raises(ValueError, match=r"work\.max_empty_rounds must be at least 1; got 0"):
            RING(max_empty_rounds=0)


def failing(grid: DelayedGrid, when: Callable[[int, int], bool]) -> None:
    """Let a worker raise an error at its n-th train message."""
    good, counts = grid._client_app, Counter[int]()

    def app(message: Any, context: Any) -> Any:
        rank = int(context.node_config["partition-id"])
        counts[rank] += message.metadata.message_type == "train"
        if message.metadata.message_type == "train" and when(rank, counts[rank]):
            raise OSError("no more power")
        return good(message, context)

    grid._client_app = app  # type: ignore[assignment]
