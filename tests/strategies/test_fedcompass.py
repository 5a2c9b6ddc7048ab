from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from strategies import SGD, AllReduce, FedCompass, FullBatch, NonBlocking
from tests import tiny
from tests.strategies import scripted
from tests.strategies.scripted import Script

WORK = FullBatch(batch_size=8, minibatch_size=4)


def run(
    script: Script, rounds: int, q_min: int, q_max: int, grid: Any = None, exponent: float = 1.0, **options: Any
) -> tuple[list[Any], list[float]]:
    """Run and return the records and the model after every step."""
    records: list[Any] = []
    models: list[float] = []

    def note(record: Any, state: Any) -> None:
        records.append(record)
        models.append(float(state.rows[0, 0]))
        assert (state.rows == state.rows[0]).all()

    chosen: dict[str, Any] = {"work": WORK, "on_round": [note]} | options
    strategy = FedCompass(q_min, q_max, staleness_exponent=exponent, **chosen)
    strategy.start(grid or scripted.grid(script), scripted.model(), rounds, evaluate_fn=lambda r, arrays: None)
    return records, models


def paces(*seconds: float) -> Any:
    """Seconds of a task at these seconds per step."""
    return lambda rank, asked: seconds[rank] * asked.local_steps


def steps(script: Script, rank: int) -> list[int]:
    return [asked.local_steps for worker, asked, _ in script.asked if worker == rank]


class TestByHand:
    def test_arrival_groups_at_speeds_1_1_and_a_quarter(self) -> None:
        # y - x = (c - x) / 2 with c = 2, 4, 8; p = 1/3; s = 1 / (1 + tau); two to four steps. At first no speed is
        # known: two steps each, every worker a group of its own. In time, (rank: delta, tau), and the tasks given:
        #  2: (0: 1, 0)                    x = 1/3        0: 4 steps, group A, expected at 6
        #  2: (1: 2, 1)                    x = 2/3        1: 4 steps, joins A
        #  6: (0: 5/6, 1) (1: 5/3, 0)      x = 49/36      0, 1: 4 steps, group B, expected at 10 and waits until 10.8
        #  8: (2: 4, 3)                    x = 61/36      2: floor((10.8 + 4 - 8) / 4) = 1, so 2 steps, C, at 16
        # 10: (0: 23/72, 1) (1: 95/72, 1)  x = 425/216    0, 1: C would take 6 steps; group D, at 14
        # 14: (0: 7/432, 0) (1: 439/432, 0)  x = 749/324  0, 1: 2 steps, join C
        # 16: (0: -101/648, 0) (1: 547/648, 0) (2: 227/72, 2)
        script = Script((2.0, 4.0, 8.0), seconds=paces(1.0, 1.0, 4.0))
        records, models = run(script, 7, 2, 4)
        assert [record["virtual_seconds"] for record in records] == [2.0, 2.0, 6.0, 8.0, 10.0, 14.0, 16.0]
        assert [record["present"] for record in records] == [[0], [1], [0, 1], [2], [0, 1], [0, 1], [0, 1, 2]]
        assert [record["staleness"] for record in records] == [
            *([0, None, None], [None, 1, None], [1, 0, None], [None, None, 3]),
            *([1, 1, None], [0, 0, None], [0, 0, 2]),
        ]
        assert [steps(script, rank) for rank in range(3)] == [[2, 4, 4, 4, 2], [2, 4, 4, 4, 2], [2, 2]]
        exact = [(1, 3), (2, 3), (49, 36), (61, 36), (425, 216), (749, 324), (5621, 1944)]
        assert models == pytest.approx([float(Fraction(*value)) for value in exact], abs=1e-6)
        assert records[2]["minibatches"] == [8, 8, None]
        assert records[2]["target_minibatches"] == [8, 8, 0]

    def test_a_late_worker_counts_in_the_next_step(self) -> None:
        # Both are expected at 4, and waited for until 4.5; worker 1 needs until 5, continues, and counts at 6.5.
        script = Script((2.0, 4.0), seconds=lambda rank, asked: 3.0 if (rank, asked.server_round) == (1, 2) else 2.0)
        records, _ = run(script, 4, 2, 2, tolerance=0.25)
        assert [record["present"] for record in records] == [[0], [1], [0], [0, 1]]
        assert [record["virtual_seconds"] for record in records] == pytest.approx([2.0, 2.0, 4.5, 6.5])
        assert records[3]["staleness"] == [0, 1]
        assert records[2]["idle_share"] == pytest.approx([0.2, 0.0])  # worker 0 waits from 4 to 4.5
        assert records[3]["idle_share"] == pytest.approx([0.0, 0.0], abs=1e-7)

    def test_shares_of_samples(self) -> None:
        partition = tiny.partition(2, sizes=[24, 72])
        options: dict[str, Any] = {"sgd": SGD(0.1), "partition": partition, "devices": tiny.fleet(1, 1)}
        one = tiny.run(lambda **rest: FedCompass(3, 3, **rest), 4, 2, work=WORK, **options)
        other = tiny.run(AllReduce, 4, 2, work=FullBatch(local_steps=3, batch_size=8, minibatch_size=4), **options)
        np.testing.assert_allclose(one.rows, other.rows, atol=1e-6)

    def test_server_learning_rate(self) -> None:
        _, models = run(Script((2.0,)), 1, 1, 1, server_learning_rate=0.5)
        assert models == [0.5]


def test_workers_of_known_speeds_arrive_together_from_the_first_round_on() -> None:
    found = tiny.run(lambda **rest: FedCompass(1, 4, **rest), 3, work=WORK, devices=tiny.fleet(1, 1, 0.5, 0.25))
    assert found.column("present") == [[0, 1, 2, 3]] * 3
    assert found.column("minibatches") == [[8, 8, 4, 2]] * 3
    assert found.column("staleness") == [[0] * 4] * 3
    assert np.array(found.column("idle_share")) == pytest.approx(0.0, abs=1e-9)


class TestFaults:
    def test_a_group_does_not_wait_for_a_worker_that_has_failed(self) -> None:
        script = Script((2.0, 4.0), seconds=paces(1.0, 1.0))
        script.fault = lambda rank, asked: "error" if (rank, asked.server_round) == (1, 2) else None
        records, _ = run(script, 4, 2, 2)
        assert [record["present"] for record in records] == [[0], [1], [0], [0, 1]]
        assert records[2]["virtual_seconds"] == 4.0
        assert "no more power" in records[2]["rejections"]["1"]

    def test_a_worker_that_was_away_comes_back_to_the_current_model(self) -> None:
        def away(rank: int, asked: Any) -> float:
            return max(5.0 - asked.run_seconds, 0.0) if (rank, asked.server_round) == (1, 2) else 0.0

        script = Script((2.0, 4.0), seconds=paces(1.0, 1.0), away=away)
        records, models = run(script, 5, 2, 2)
        # Awaited until 4.4; back at 5, where it joins nobody: worker 0 is expected at 6.4.
        assert [record["present"] for record in records] == [[0], [1], [0], [0], [1]]
        assert [record["virtual_seconds"] for record in records] == pytest.approx([2.0, 2.0, 4.4, 6.4, 7.0])
        assert records[2]["away"] == [1]
        assert [x for rank, _, x in script.asked if rank == 1] == pytest.approx([0.0, models[1], models[2]])

    def test_as_many_late_updates_as_workers_do_not_wait_for_a_group(self) -> None:
        script = Script((2.0,), seconds=lambda rank, asked: 2.0**asked.server_round)
        records, _ = run(script, 5, 1, 1)
        assert [record["virtual_seconds"] for record in records] == [2.0, 6.0, 14.0, 30.0, 62.0]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"q_min": 0}, "strategy.q_min must be at least 1; got 0"),
            ({"q_min": 3, "q_max": 2}, "strategy.q_max must be at least q_min=3; got 2"),
            ({"tolerance": -0.1}, "strategy.tolerance must be at least 0; got -0.1"),
            ({"work": NonBlocking()}, "work must be full_batch with FedCompass, which sets .* steps; got non_blocking"),
            ({"work": FullBatch(local_steps=2)}, "local_steps must be 1 with FedCompass, which sets .* steps; got 2"),
        ],
    )
    def test_parameters_out_of_range(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FedCompass(**options)


class _Silent(scripted.SlowGrid):
    """Rank 1 answers its first task only."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        if any(rank == 1 for rank, _, _ in self.script.asked):
            self.polls = (0, 10**9)
        return super().push_messages(messages)


def test_on_real_devices_a_group_waits_in_real_time() -> None:
    script = Script((2.0, 4.0), seconds=paces(0.01, 0.01))
    records, _ = run(script, 5, 2, 2, grid=_Silent(script, (0, 0)), wall_clock=True, tolerance=0.5)
    assert [record["present"] for record in records] == [[0], [1], [0], [0], [0]]
    assert [record["virtual_seconds"] for record in records] == pytest.approx([0.02, 0.02, 0.05, 0.07, 0.09])
    assert records[2]["wall_seconds"] - records[1]["wall_seconds"] >= 0.009  # it waits from 0.04 to 0.05
