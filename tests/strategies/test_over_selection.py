from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from echelon.core.mixing import Mixing
from echelon.core.strategy import RoundNumbers
from strategies import SGD, AllReduce, AllWorkersFailedError, FullBatch, NonBlocking, OverSelection
from tests import tiny
from tests.strategies import scripted
from tests.strategies.scripted import Script

WORK = FullBatch(batch_size=8, minibatch_size=4)


def run(script: Script, rounds: int, keep: float, grid: Any = None, **options: Any) -> tuple[OverSelection, list[Any]]:
    records: list[Any] = []
    strategy = OverSelection(keep, work=WORK, on_round=[lambda record, state: records.append(record)], **options)
    strategy.start(grid or scripted.grid(script), scripted.model(), rounds, evaluate_fn=lambda r, arrays: None)
    return strategy, records


class TestFirstReplies:
    def test_two_of_three_by_hand(self) -> None:
        # Speeds 1, 1, 1/4. x: 0 -> mean(1, 2) = 1.5 -> mean(1.75, 2.75) = 2.25; worker 2 computes for nothing.
        script = Script((2.0, 4.0, 8.0), seconds=lambda rank, _: (1.0, 1.0, 4.0)[rank])
        strategy, records = run(script, 2, keep=0.6)
        assert [record["present"] for record in records] == [[0, 1], [0, 1]]
        assert [record["late"] for record in records] == [[2], [2]]
        assert [record["virtual_seconds"] for record in records] == [1.0, 2.0]
        assert records[0]["idle_share"] == [0.0, 0.0, None]
        assert records[0]["samples"] == [8, 8, None]
        assert strategy.state.rows.tolist() == [[2.25]] * 3
        assert strategy.state.cursors.tolist() == [[0, 16], [0, 16], [0, 0]]
        assert strategy.state.samples == 32

    def test_every_worker_is_asked_every_round_and_goes_on_from_the_average(self) -> None:
        script = Script((2.0, 4.0, 8.0), seconds=lambda rank, _: (1.0, 1.0, 4.0)[rank])
        run(script, 2, keep=0.6)
        assert [(rank, asked.position, x) for rank, asked, x in script.asked] == [
            *[(0, 0, 0.0), (1, 0, 0.0), (2, 0, 0.0)],
            *[(0, 8, 1.5), (1, 8, 1.5), (2, 0, 1.5)],
        ]

    def test_communication_counts(self) -> None:
        script = Script((2.0, 4.0, 8.0), seconds=lambda rank, _: (1.0, 2.0, 3.0)[rank], latency=(2.5, 0.0, 0.1))
        _, records = run(script, 1, keep=0.6)
        assert records[0]["present"] == [1, 2]
        assert records[0]["round_seconds"] == pytest.approx(3.1)

    def test_ties_go_to_the_lower_rank(self) -> None:
        _, records = run(Script((0.0,) * 4), 1, keep=0.5)
        assert records[0]["present"] == [0, 1]

    @pytest.mark.parametrize(("keep", "workers", "k"), [(0.75, 8, 6), (0.7, 10, 7), (0.1, 3, 1), (0.51, 2, 2)])
    def test_number_awaited(self, keep: float, workers: int, k: int) -> None:
        strategy, records = run(Script((0.0,) * workers), 1, keep=keep)
        assert (strategy.awaited, len(records[0]["present"])) == (k, k)

    def test_keeping_all_is_all_reduce_to_the_bit(self) -> None:
        states = []
        for make in (lambda **options: OverSelection(1.0, **options), AllReduce):
            strategy = make(work=WORK, sgd=SGD(0.1, momentum=0.9), partition=tiny.partition(3))
            strategy.start(tiny.grid(3, devices=tiny.fleet(1.0, 1.0, 0.25)), tiny.arrays(), 5)
            states.append(strategy.state)
        first, second = states
        assert first.rows.tobytes() == second.rows.tobytes()
        assert first.momentum is not None
        assert second.momentum is not None
        assert first.momentum.tobytes() == second.momentum.tobytes()
        assert first.virtual_seconds == second.virtual_seconds

    def test_momentum_is_the_mean_of_those_kept(self) -> None:
        def momentum(strategy: AllReduce, devices: tuple[float, ...]) -> Any:
            strategy.start(tiny.grid(3, devices=tiny.fleet(*devices)), tiny.arrays(), 1)
            return strategy.state.momentum

        options: dict[str, Any] = {"work": WORK, "sgd": SGD(0.1, momentum=0.9), "partition": tiny.partition(3)}
        mean = momentum(OverSelection(0.6, **options), (1.0, 1.0, 0.25))
        unmixed = momentum(_Unmixed(**options), (1.0, 1.0, 0.25))
        assert np.allclose(mean, unmixed[:2].mean(axis=0), atol=1e-7)

    def test_partial_work(self) -> None:
        # Everybody stops after the fastest one's second; the dropped worker is the one that reports the most seconds.
        records: list[Any] = []
        strategy = OverSelection(
            0.6,
            work=NonBlocking(batch_size=10, minibatch_size=5),
            partition=tiny.partition(3),
            on_round=[lambda record, state: records.append(record)],
        )
        strategy.start(tiny.grid(3, devices=tiny.fleet(1.0, 0.5, 0.25)), tiny.arrays(), 1)
        assert records[0]["minibatches"] == [2, 1, None]
        assert records[0]["round_seconds"] == pytest.approx(1.0)


class _Unmixed(AllReduce):
    """Every worker keeps its own row and momentum."""

    momentum_mixing = "local"

    def mixing(self, numbers: RoundNumbers) -> Mixing:
        return replace(super().mixing(numbers), matrix=np.eye(self.num_workers))


class TestFaults:
    def test_a_failed_reply_is_none_of_the_first(self) -> None:
        script = Script((2.0, 4.0, 8.0), seconds=lambda rank, _: (1.0, 1.0, 4.0)[rank])
        script.fault = lambda rank, _: ("error", None, None)[rank]
        _, records = run(script, 1, keep=0.6)
        assert (records[0]["present"], records[0]["late"], records[0]["rejected"]) == ([1, 2], [], 1)
        assert records[0]["round_seconds"] == 4.0

    def test_fewer_than_awaited(self) -> None:
        script = Script((2.0, 4.0, 8.0), fault=lambda rank, _: ("error", "nan", None)[rank])
        strategy, records = run(script, 1, keep=0.6)
        assert records[0]["present"] == [2]
        assert strategy.state.rows.tolist() == [[4.0]] * 3

    def test_none_at_all(self) -> None:
        with pytest.raises(AllWorkersFailedError, match="no more power"):
            run(Script((0.0, 0.0), fault=lambda rank, _: "error"), 1, keep=0.5)

    @pytest.mark.parametrize("keep", [0.0, -0.5, 1.1, float("nan")])
    def test_keep_out_of_range(self, keep: float) -> None:
        with pytest.raises(ValueError, match=r"strategy\.keep must lie in \(0, 1\]; got"):
            OverSelection(keep)

    def test_late_replies_cannot_be_folded_in(self) -> None:
        with pytest.raises(ValueError, match=r"work\.fold_late must be false"):
            OverSelection(fold_late=True)


class TestWallClock:
    def test_a_round_ends_with_the_last_one_awaited(self) -> None:
        # By its own account worker 2 is the fastest; what counts here is that its reply never comes.
        script = Script((2.0, 4.0, 8.0), seconds=lambda rank, _: (1.0, 1.0, 0.1)[rank])
        grid = scripted.SlowGrid(script, (0, 3, 10**9))
        strategy, records = run(script, 3, keep=0.6, grid=grid, wall_clock=True)
        assert [record["present"] for record in records] == [[0, 1]] * 3
        assert [record["late"] for record in records] == [[2], [], []]
        assert [record["round_seconds"] for record in records] == [1.0] * 3
        assert strategy.state.cursors.tolist() == [[0, 24], [0, 24], [0, 0]]

    def test_a_late_reply_is_discarded_and_its_worker_takes_part_again(self) -> None:
        # Polls 1 to 3 are the first round, poll 4 the start of the second: worker 2's reply comes during the second.
        script = Script((2.0, 4.0, 8.0))
        strategy, records = run(script, 3, keep=0.6, grid=scripted.SlowGrid(script, (1, 2, 5)), wall_clock=True)
        assert [record["present"] for record in records] == [[0, 1]] * 3
        assert [(a.server_round, a.position) for rank, a, _ in script.asked if rank == 2] == [(1, 0), (3, 0)]
        assert strategy.state.rows.tolist() == [[2.625]] * 3

    def test_an_error_does_not_end_the_round(self) -> None:
        script = Script((2.0, 4.0, 8.0), fault=lambda rank, _: ("error", None, None)[rank])
        _, records = run(script, 1, keep=0.6, grid=scripted.SlowGrid(script, (0, 2, 4)), wall_clock=True)
        assert records[0]["present"] == [1, 2]
