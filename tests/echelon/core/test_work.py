"""Work policies, alone and through runs on the virtual clock."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import make_client_app
from clients.data import TensorData
from clients.fleet import Jitter
from echelon.core.work import batch_sizes
from echelon.engines.inline import InlineGrid
from strategies import DPSGD, SGD, AllReduce, FullBatch, NonBlocking, Partition
from tests import tiny

TAU = (1, 1, 1, 1, 1, 1, 2, 4)
EIGHT = NonBlocking(batch_size=16, minibatch_size=2)  # M = 8
MINIBATCH_SECONDS = 2 / tiny.SPEED
NO_EVALUATION = {"evaluate_fn": lambda server_round, arrays: None}


def run(work: NonBlocking, tau: tuple[float, ...], rounds: int, make: Any = AllReduce, **options: Any) -> tiny.Run:
    devices = tiny.fleet(*(1 / t for t in tau), jitter=options.pop("jitter", None))
    return tiny.run(make, rounds, len(tau), work=work, devices=devices, **options)


class TestThePapersExample:
    def test_counts_and_gain(self) -> None:
        non_blocking = run(EIGHT, TAU, 2)
        assert non_blocking.column("minibatches") == [[8, 8, 8, 8, 8, 8, 4, 2]] * 2
        assert non_blocking.column("round_seconds") == pytest.approx([8 * MINIBATCH_SECONDS] * 2)
        blocking = tiny.run(AllReduce, 1, 8, work=FullBatch(1, 16, 2), devices=tiny.fleet(*(1 / t for t in TAU)))
        assert blocking.column("minibatches") == [[8] * 8]
        assert blocking.records[0]["round_seconds"] == pytest.approx(32 * MINIBATCH_SECONDS)
        rates = [sum(r.records[0]["minibatches"]) / r.records[0]["round_seconds"] for r in (non_blocking, blocking)]
        assert rates[0] / rates[1] == pytest.approx(3.375)

    def test_idle_share(self) -> None:
        """At most 10 % where blocking leaves three quarters."""
        non_blocking = run(EIGHT, TAU, 1).records[0]["idle_share"]
        assert max(non_blocking) == pytest.approx(0)
        blocking = tiny.run(AllReduce, 1, 8, work=FullBatch(1, 16, 2), devices=tiny.fleet(*(1 / t for t in TAU)))
        assert blocking.records[0]["idle_share"] == pytest.approx([0.75] * 6 + [0.5, 0.0])

    @settings(max_examples=15)
    @given(
        tau=st.lists(st.sampled_from([0.5, 0.7, 1.0, 1.1, 1.5, 2.0, 3.0, 9.0]), min_size=1, max_size=5),
        least=st.integers(0, 3),
    )
    def test_counts_for_any_fleet(self, tau: list[float], least: int) -> None:
        """M_i = max(least, min(M, floor(T / tau_i))), T = M min tau."""
        got = run(NonBlocking(batch_size=12, minibatch_size=2, min_minibatches=least), tuple(tau), 1)
        seconds = 6 * min(tau)
        assert got.records[0]["minibatches"] == [max(least, min(6, int(seconds / t + 1e-6))) for t in tau]
        assert got.records[0]["budget_seconds"] == pytest.approx(seconds * MINIBATCH_SECONDS)


class TestTriggers:
    def test_quorum(self) -> None:
        work = NonBlocking(batch_size=16, minibatch_size=2, trigger="quorum", quorum=0.8)
        got = run(work, TAU, 1)  # 7 of 8 must finish: the budget is that of the one with tau = 2
        assert got.records[0]["budget_seconds"] == pytest.approx(16 * MINIBATCH_SECONDS)
        assert got.records[0]["minibatches"] == [8] * 7 + [4]

    def test_deadline(self) -> None:
        work = NonBlocking(batch_size=16, minibatch_size=2, trigger="deadline", deadline=3.1 * MINIBATCH_SECONDS)
        assert run(work, TAU, 1).records[0]["minibatches"] == [3] * 6 + [1, 1]

    def test_the_budget_follows_the_workers(self) -> None:
        """The estimate is an exponential average of what replies report: here of jitter around 1."""
        work = NonBlocking(batch_size=16, minibatch_size=2, trigger="quorum", quorum=1.0, ema=0.25)
        got = run(work, (1.0,), 6, jitter=Jitter("log_normal", scale=0.5))
        estimate = MINIBATCH_SECONDS
        for record in got.records:
            assert record["budget_seconds"] == pytest.approx(8 * estimate)
            measured = record["compute_seconds"][0] / record["minibatches"][0]
            estimate += 0.25 * (measured - estimate)


class TestLocalSteps:
    def test_the_budget_covers_the_round(self) -> None:
        work = NonBlocking(local_steps=3, batch_size=8, minibatch_size=2)
        got = run(work, (1, 2, 12), 2)
        assert got.column("minibatches") == [[12, 6, 1]] * 2
        assert got.column("target_minibatches") == [[12] * 3] * 2


class TestTargetRest:
    """Who has not finished aims at the rest of its batch first: a leftover ends the round for everybody."""

    def test_full_and_leftover_rounds_alternate(self) -> None:
        """tau = 1 and 1.1, M = 8: a round of 8, then one of 1.1 for the leftover mini-batch, by the literal rule."""
        work = NonBlocking(batch_size=16, minibatch_size=2, target="rest")
        got = run(work, (1.0, 1.1), 4)
        seconds = [record["budget_seconds"] / MINIBATCH_SECONDS for record in got.records]
        # In the third round the fast worker still has 7 of the batch that it began in the second one.
        assert seconds == pytest.approx([8, 1.1, 7, 2.2])
        assert got.column("target_minibatches") == [[8, 8], [8, 1], [7, 8], [8, 2]]
        assert got.column("minibatches") == [[8, 7], [1, 1], [7, 6], [2, 2]]

    def test_target_full_does_not(self) -> None:
        got = run(EIGHT, (1.0, 1.1), 4)
        assert got.column("target_minibatches") == [[8, 8]] * 4
        assert got.column("minibatches") == [[8, 7]] * 4

    def test_a_batch_that_minibatches_do_not_divide(self) -> None:
        """B = 10 = 4 + 4 + 2; after one mini-batch the rest is 6 = 4 + 2, never 8."""
        work = NonBlocking(batch_size=10, minibatch_size=4, target="rest")
        got = run(work, (1.0, 2.5), 6)
        assert all(record["rejected"] == 0 for record in got.records)
        for record in got.records:
            assert all(0 < samples <= 10 for samples in record["samples"])
        slow = [record["samples"][1] for record in got.records]
        assert slow[:2] == [4, 4] or slow[0] == 4
        total = np.cumsum(slow)
        assert set(range(10, total[-1] + 1, 10)) <= set(total), "every batch is finished before the next is begun"


class TestNothingIsLost:
    @settings(max_examples=8)
    @given(seed=st.integers(0, 1000), size=st.integers(3, 30))
    def test_every_worker_visits_its_shard_pass_by_pass(self, seed: int, size: int) -> None:
        """Random interruptions (jitter, churn): nothing skipped, nothing twice within a pass."""
        used: dict[int, list[int]] = {0: [], 1: []}

        class Spy(TensorData):
            def __init__(self, rank: int) -> None:
                super().__init__(*tiny.data())
                self.rank = rank

            def batch(self, indices: Any, generator: Any) -> Any:
                used[self.rank].extend(indices.tolist())
                return super().batch(indices, generator)

        devices = tiny.fleet(1, 0.3, jitter=Jitter("log_normal", scale=1.0), leave_probability=0.3)
        app = make_client_app(lambda rank, n: Spy(rank), tiny.linear, device="cpu", fleet=devices)
        parts = [np.arange(0, size), np.arange(40, 40 + size + 1)]
        work = NonBlocking(batch_size=7, minibatch_size=2)
        got = tiny.run(
            AllReduce,
            12,
            2,
            on=InlineGrid(app, 2),
            work=work,
            partition=Partition(parts),
            seed=seed,
            start=NO_EVALUATION,
        )
        for rank, part in enumerate(parts):
            samples = used[rank]
            assert len(samples) == sum(record["samples"][rank] or 0 for record in got.records)
            for start in range(0, len(samples), len(part)):
                one_pass = samples[start : start + len(part)]
                assert len(set(one_pass)) == len(one_pass)
                assert set(one_pass) <= set(part.tolist())
            epoch, position = got.strategy.state.cursors[rank].tolist()
            assert epoch * len(part) + position == len(samples)


class TestStarvation:
    def test_a_very_slow_worker_does_something_every_round(self) -> None:
        got = run(EIGHT, (1, 1, 1000), 3)
        assert got.column("minibatches") == [[8, 8, 1]] * 3

    def test_without_a_least_it_starves(self) -> None:
        work = NonBlocking(batch_size=16, minibatch_size=2, min_minibatches=0)
        got = run(work, (1, 1, 1000), 3, partial(DPSGD, "ring"), sgd=SGD(0.2, 0.9, 0.1))
        assert got.column("minibatches") == [[8, 8, 0]] * 3
        assert got.column("samples") == [[16, 16, 0]] * 3
        assert [record["train_loss_per_worker"][2] for record in got.records] == [
            pytest.approx(np.nan, nan_ok=True)
        ] * 3
        assert np.isfinite(got.column("train_loss")).all()
        assert got.strategy.state.momentum is not None
        assert not got.strategy.state.momentum[2].any()


class TestProportionalBatches:
    def test_sizes(self) -> None:
        assert batch_sizes(64, 3, None).tolist() == [64, 64, 64]
        assert batch_sizes(64, 4, np.array([4.0, 2.0, 1.0, 0.01])).tolist() == [64, 32, 16, 1]

    def test_all_workers_finishes_at_the_same_time(self) -> None:
        partition = Partition(tiny.partition(4).parts, np.array([4.0, 4.0, 2.0, 1.0]))
        got = tiny.run(AllReduce, 2, work=FullBatch(2, 16, 4), partition=partition)
        assert got.column("samples") == [[32, 32, 16, 8]] * 2
        assert got.records[0]["idle_share"] == pytest.approx([0.0] * 4)


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        (FullBatch, {"local_steps": 0}, "local_steps must be at least 1; got 0"),
        (FullBatch, {"batch_size": 0}, "batch_size must be at least 1; got 0"),
        (FullBatch, {"minibatch_size": 0}, r"minibatch_size must be at least 1; got 0"),
        (FullBatch, {"minibatch_size": 257}, r"minibatch_size must be at most batch_size=256; got 257"),
        (FullBatch, {"ema": 0.0}, r"work\.ema must lie in \(0, 1\]; got 0\.0"),
        (NonBlocking, {"ema": 1.5}, r"work\.ema must lie in \(0, 1\]; got 1\.5"),
        (NonBlocking, {"trigger": "x"}, r"work\.trigger must be one of fastest, quorum, deadline; got x"),
        (NonBlocking, {"trigger": "quorum", "quorum": 2.0}, r"work\.quorum must lie in \(0, 1\]; got 2\.0"),
        (NonBlocking, {"trigger": "deadline"}, r"work\.trigger=deadline needs work\.deadline, in seconds; got null"),
        (NonBlocking, {"estimator": "x"}, r"work\.estimator must be one of nominal, .*; got x"),
        (NonBlocking, {"min_minibatches": -1}, r"work\.min_minibatches must be at least 0; got -1"),
        (NonBlocking, {"target": "x"}, r"work\.target must be full or rest; got x"),
        (NonBlocking, {"target": "rest", "local_steps": 2}, r"work\.target=rest needs local_steps=1; got 2"),
    ],
)
def test_what_cannot_be_is_refused(policy: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(**options)
