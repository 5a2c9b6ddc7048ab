"""Exact identities of the algorithms, through real runs (ALGORITHMS: exact checks)."""

from functools import partial
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from echelon.algorithms.partial import sample_order
from echelon.engines.inline import InlineGrid
from strategies import ALDSGD, DPSGD, SGD, AllReduce, FullBatch, Matcha, NonBlocking, Partition
from tests import tiny
from tests.strategies.table import STRATEGIES, Factory

X, Y = tiny.data()
HYPER = SGD(0.1, momentum=0.9, weight_decay=0.01, lr_milestones=(4,), lr_gamma=0.5)
FULL = FullBatch(batch_size=16, minibatch_size=4)
ONE: dict[str, Factory] = {
    "all_reduce": AllReduce,
    "d_psgd": partial(DPSGD, nx.empty_graph(1)),
    "d_psgd on a ring": partial(DPSGD, "ring"),
    "matcha": partial(Matcha, nx.empty_graph(1)),
    "al_dsgd": partial(ALDSGD, nx.empty_graph(1)),
    "al_dsgd in step": partial(ALDSGD, nx.empty_graph(1), force="in_step"),
}


def plain_sgd(build: tiny.Model, batches: list[list[int]], minibatch: int) -> tuple[ArrayRecord, list[float]]:
    """Train with torch alone: one step per batch; gradients of mini-batches are accumulated."""
    module = build().train()
    optimiser = torch.optim.SGD(module.parameters(), lr=HYPER.learning_rate, momentum=0.9, weight_decay=0.01)
    losses = []
    for step, batch in enumerate(batches, start=1):
        for group in optimiser.param_groups:
            group["lr"] = HYPER.at(step)
        optimiser.zero_grad()
        total = 0.0
        for here in (batch[i : i + minibatch] for i in range(0, len(batch), minibatch)):
            loss = functional.cross_entropy(module(X[here]), Y[here], reduction="sum")
            torch.autograd.backward(loss / len(batch))
            total += loss.item()
        optimiser.step()
        losses.append(total / len(batch))
    return ArrayRecord(module.state_dict()), losses


def visited(shard: NDArray[np.int64], rank: int, rounds: int, batch: int) -> list[list[int]]:
    """Samples of each round by the sample order's definition."""
    passes = -(-rounds * batch // len(shard))
    stream = np.concatenate([shard[sample_order(0, rank, epoch, len(shard))] for epoch in range(passes)])
    return [stream[i * batch : (i + 1) * batch].tolist() for i in range(rounds)]


class TestOneWorkerIsPlainSGD:
    @pytest.mark.parametrize("make", ONE.values(), ids=list(ONE))
    @pytest.mark.parametrize("build", [tiny.linear, tiny.batch_norm])
    def test_with_momentum_weight_decay_and_schedule(self, make: Any, build: tiny.Model) -> None:
        run = tiny.run(make, 8, 1, model=build, work=FULL, sgd=HYPER)
        shard = tiny.partition(1).parts[0]  # type: ignore[index]
        arrays, losses = plain_sgd(build, visited(shard, 0, 8, 16), minibatch=4)
        np.testing.assert_allclose(tiny.vector(run.result.arrays), tiny.vector(arrays), atol=1e-5)
        assert run.column("train_loss") == pytest.approx(losses, abs=1e-5)

    def test_steps_of_a_round_are_steps(self) -> None:
        """With F = 4 a round is four steps; the milestone counts rounds."""
        hyper = SGD(0.1, momentum=0.9, weight_decay=0.01)
        rounds = tiny.run(AllReduce, 2, 1, work=FullBatch(4, 16, 4), sgd=hyper)
        steps = tiny.run(AllReduce, 8, 1, work=FULL, sgd=hyper)
        np.testing.assert_allclose(rounds.rows, steps.rows, atol=1e-6)


class TestLargeBatch:
    """Complete graph, W = J/N, F = 1: synchronous SGD on the union of the batches."""

    @pytest.mark.parametrize(
        "make",
        [AllReduce, partial(DPSGD, "complete", mixing="uniform"), partial(DPSGD, "complete")],
        ids=["all_reduce", "uniform", "metropolis"],
    )
    def test_without_momentum(self, make: Any) -> None:
        sgd = SGD(HYPER.learning_rate, 0.0, 0.01, HYPER.lr_milestones, HYPER.lr_gamma)
        run = tiny.run(make, 6, work=FULL, sgd=sgd)
        np.testing.assert_allclose(run.rows, np.tile(self.reference(momentum=0.0), (4, 1)), atol=1e-5)

    def test_all_reduce_with_momentum(self) -> None:
        run = tiny.run(AllReduce, 6, work=FULL, sgd=HYPER)
        np.testing.assert_allclose(run.rows[0], self.reference(momentum=0.9), atol=1e-5)
        assert run.strategy.state.momentum is not None
        np.testing.assert_allclose(np.ptp(run.strategy.state.momentum, axis=0), 0, atol=1e-6)

    def reference(self, momentum: float) -> NDArray[np.float64]:
        parts = tiny.partition(4).parts
        assert parts is not None
        by_worker = [visited(part, rank, 6, 16) for rank, part in enumerate(parts)]
        module = tiny.linear()
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=momentum, weight_decay=0.01)
        for step in range(6):
            for group in optimiser.param_groups:
                group["lr"] = HYPER.at(step + 1)
            batch = [sample for rounds in by_worker for sample in rounds[step]]
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(module(X[batch]), Y[batch]))
            optimiser.step()
        return tiny.vector(ArrayRecord(module.state_dict()))


class TestFedAvg:
    """AllReduce and Flower's FedAvg, given the same replies."""

    sizes = (40, 30, 20, 6)

    def compare(self, build: tiny.Model, partition: Partition, **options: Any) -> tuple[ArrayRecord, ArrayRecord]:
        grid = tiny.grid(4, build, devices=tiny.fleet(1))
        ours = AllReduce(partition=partition, sgd=SGD(0.3), **options)
        messages = list(ours.configure_train(1, tiny.arrays(build), ConfigRecord(), grid))
        replies = list(grid.send_and_receive(messages))
        got, metrics = ours.aggregate_train(1, replies)
        theirs, _ = FedAvg().aggregate_train(1, replies)
        assert got is not None
        assert theirs is not None
        assert metrics is not None
        return got, theirs

    def test_unequal_samples(self) -> None:
        got, theirs = self.compare(tiny.linear, tiny.partition(4, sizes=self.sizes), work=FULL)
        np.testing.assert_allclose(tiny.vector(got), tiny.vector(theirs), atol=1e-6)

    def test_several_steps(self) -> None:
        got, theirs = self.compare(tiny.linear, tiny.partition(4, sizes=self.sizes), work=FullBatch(3, 8, 4))
        np.testing.assert_allclose(tiny.vector(got), tiny.vector(theirs), atol=1e-6)

    def test_buffers_are_averaged_too(self) -> None:
        got, theirs = self.compare(tiny.batch_norm, tiny.partition(4), work=FULL)
        np.testing.assert_allclose(tiny.vector(got), tiny.vector(theirs), atol=1e-6)
        assert got["1.num_batches_tracked"].dtype == "int64"


class TestBaseRules:
    @pytest.mark.parametrize("base", ["d_psgd", "matcha"])
    def test_leaders_without_weight_are_the_base_rule(self, base: Any) -> None:
        options: dict[str, Any] = {"devices": tiny.fleet(1, 0.5), "model": tiny.batch_norm, "sgd": HYPER}
        nothing = partial(ALDSGD, "ring", base=base, c1=0, c2=0, p1=0, p2=0)
        plain = partial(DPSGD, "ring") if base == "d_psgd" else partial(Matcha, "ring")
        leaders, rule = tiny.run(nothing, 5, **options), tiny.run(plain, 5, **options)
        assert leaders.rows.tobytes() == rule.rows.tobytes()
        assert leaders.column("train_loss") == rule.column("train_loss")

    def test_matcha_with_the_whole_budget_is_d_psgd_with_the_laplacian(self) -> None:
        graph = nx.barbell_graph(3, 0)
        with pytest.warns(UserWarning, match="negative"):
            rule = tiny.run(partial(DPSGD, graph, mixing="laplacian"), 5, 6)
        matcha = tiny.run(partial(Matcha, graph, communication_budget=1.0), 5, 6)
        np.testing.assert_allclose(matcha.rows, rule.rows, atol=1e-5)
        assert matcha.column("edges") == rule.column("edges")

    @pytest.mark.parametrize("mixing", ["metropolis", "uniform", "laplacian"])
    def test_d_psgd_on_a_complete_graph_is_a_mean(self, mixing: Any) -> None:
        run = tiny.run(partial(DPSGD, "complete", mixing=mixing), 3, work=FULL, sgd=SGD(0.5))
        mean = tiny.run(AllReduce, 3, work=FULL, sgd=SGD(0.5))
        assert len({row.tobytes() for row in run.rows}) == 1
        np.testing.assert_allclose(run.rows, mean.rows, atol=1e-6)
        assert run.column("consensus_distance") == run.column("mean_drift") == [0.0] * 3

    def test_it_is_none_with_an_edge_less_or_with_weights_of_unequal_shards(self) -> None:
        graph = nx.complete_graph(4)
        graph.remove_edge(0, 1)
        graph.add_edge(0, 0)
        unequal = tiny.partition(4, sizes=[40, 24, 16, 16])
        for make in (partial(DPSGD, graph), partial(DPSGD, "complete", mixing="target")):
            run = tiny.run(make, 1, work=FULL, partition=unequal)
            assert len({row.tobytes() for row in run.rows}) > 1
            assert run.column("consensus_distance")[0] > 0

    def test_both_orders_agree_on_the_mean(self) -> None:
        """W Y and W X + (Y - X) move the mean model alike when all gradients are equal."""
        same = Partition([np.arange(32)] * 4)
        first = tiny.run(partial(DPSGD, "ring"), 1, partition=same, work=FullBatch(1, 32, 32))
        second = tiny.run(
            partial(DPSGD, "ring", order="combine_then_adapt"), 1, partition=same, work=FullBatch(1, 32, 32)
        )
        np.testing.assert_allclose(first.rows, second.rows, atol=1e-6)

    def test_combine_then_adapt_by_hand(self) -> None:
        """X+ = W X + (Y - X), round after round, from the runs' own updates."""
        run = tiny.run(partial(DPSGD, "ring", order="combine_then_adapt"), 1, work=FULL)
        adapted = tiny.run(partial(DPSGD, "ring", allow_disconnected=True), 1, work=FULL)
        start = tiny.vector(tiny.arrays())
        np.testing.assert_allclose(run.rows.mean(axis=0), adapted.rows.mean(axis=0), atol=1e-6)
        assert not np.allclose(run.rows, start)

    def test_gossip_keeps_the_mean_and_does_not_mix_buffers(self) -> None:
        run = tiny.run(STRATEGIES["d_psgd"], 4, model=tiny.batch_norm, work=FULL)
        assert max(run.column("mean_drift")) < 1e-6
        layout = run.strategy.session.layout
        buffers = run.rows[:, layout.num_parameters :]
        assert len({row.tobytes() for row in buffers}) == 4, "every worker keeps its own BatchNorm statistics"

    def test_all_reduce_does_not_mix_buffers_either(self) -> None:
        run = tiny.run(AllReduce, 2, model=tiny.batch_norm, work=FULL)
        layout = run.strategy.session.layout
        assert len({row[: layout.num_parameters].tobytes() for row in run.rows}) == 1
        assert len({row[layout.num_parameters :].tobytes() for row in run.rows}) == 4


class TestAccumulation:
    @pytest.mark.parametrize("make", [AllReduce, partial(DPSGD, "ring")])
    def test_eight_minibatches_of_4_are_one_batch_of_32(self, make: Any) -> None:
        runs = [tiny.run(make, 5, work=FullBatch(1, 32, size), sgd=HYPER) for size in (4, 32)]
        np.testing.assert_allclose(runs[0].rows, runs[1].rows, atol=1e-5)
        assert runs[0].column("samples") == runs[1].column("samples")
        assert runs[0].records[0]["minibatches"] == [8] * 4


class TestPartialWork:
    @pytest.mark.parametrize("estimator", ["nominal", "finished", "per_worker", "expected", "memory"])
    @pytest.mark.parametrize("make", [AllReduce, partial(DPSGD, "ring"), partial(ALDSGD, "ring")])
    def test_without_stragglers_it_is_blocking_work(self, make: Any, estimator: Any) -> None:
        equal: dict[str, Any] = {"devices": tiny.fleet(1), "sgd": HYPER}
        blocking = tiny.run(make, 5, work=FULL, **equal)
        partial_work = NonBlocking(batch_size=16, minibatch_size=4, estimator=estimator)
        non_blocking = tiny.run(make, 5, work=partial_work, **equal)
        assert non_blocking.column("train_loss") == blocking.column("train_loss")
        assert non_blocking.rows.tobytes() == blocking.rows.tobytes()

    def run(self, estimator: Any, make: Any = AllReduce, rounds: int = 1, **work: Any) -> tiny.Run:
        chosen = NonBlocking(batch_size=16, minibatch_size=4, estimator=estimator, **work)
        return tiny.run(make, rounds, work=chosen, sgd=SGD(0.5))

    def test_nominal_is_finished_with_the_finished_share(self) -> None:
        """Finished (4, 4, 2, 1) of 16 mini-batches: the step of ``nominal`` is 11/16 of that of ``finished``."""
        start = tiny.vector(tiny.arrays())
        nominal, finished = (self.run(name).rows[0] - start for name in ("nominal", "finished"))
        np.testing.assert_allclose(nominal, finished * 11 / 16, atol=1e-6)

    def test_per_worker_weighs_every_worker_alike(self) -> None:
        """Each worker's step is its own mean gradient: (4, 4, 2, 1) mini-batches scaled by 4/4, 4/4, 4/2, 4/1."""
        start = tiny.vector(tiny.arrays())
        alone = [self.updates()[rank] * scale for rank, scale in enumerate((1, 1, 2, 4))]
        np.testing.assert_allclose(self.run("per_worker").rows[0] - start, np.mean(alone, axis=0), atol=1e-6)

    def test_expected_divides_by_the_running_mean(self) -> None:
        start = tiny.vector(tiny.arrays())
        first = self.run("expected").rows[0] - start
        np.testing.assert_allclose(first, self.run("per_worker").rows[0] - start, atol=1e-6)

    def updates(self) -> NDArray[np.float64]:
        """The local updates of the first round, nominal: a graph without edges does not mix."""
        apart = partial(DPSGD, nx.empty_graph(4), allow_disconnected=True)
        return self.run("nominal", apart).rows.astype(float) - tiny.vector(tiny.arrays())

    def test_decentralised_nominal_is_lr_over_m_times_the_sum(self) -> None:
        """Worker i moves by (lr / M) S_i: the update of its M_i finished mini-batches over the whole batch."""
        parts = tiny.partition(4).parts
        assert parts is not None
        for rank, done in enumerate((16, 16, 8, 4)):
            batch = visited(parts[rank], rank, 1, 16)[0][:done]
            module = tiny.linear()
            torch.autograd.backward(functional.cross_entropy(module(X[batch]), Y[batch], reduction="sum") / 16)
            gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
            np.testing.assert_allclose(self.updates()[rank], -0.5 * gradient.numpy(), atol=1e-6)

    @pytest.mark.parametrize("estimator", ["nominal", "finished", "per_worker", "expected", "memory"])
    def test_proportional_batches_with_nobody_late(self, estimator: Any) -> None:
        """Batches of 16, 16, 8 and 4 on devices that are as unequal: every estimator is blocking work."""
        partition = Partition(tiny.partition(4).parts, np.array([1.0, 1.0, 0.5, 0.25]))
        blocking = tiny.run(AllReduce, 5, work=FULL, sgd=HYPER, partition=partition)
        partial_work = NonBlocking(batch_size=16, minibatch_size=4, estimator=estimator)
        non_blocking = tiny.run(AllReduce, 5, work=partial_work, sgd=HYPER, partition=partition)
        assert non_blocking.rows.tobytes() == blocking.rows.tobytes()

    @pytest.mark.parametrize(
        ("estimator", "factors"),
        [("finished", [16 / 11] * 4), ("per_worker", [1, 1, 2, 4]), ("expected", [1, 1, 2, 4])],
    )
    def test_fednova_comes_on_top_of_every_estimator(self, estimator: Any, factors: list[float]) -> None:
        """(4, 4, 2, 1) of 4 mini-batches of each of F = 2 steps, so a = (2, 2, 1, 1/2)."""
        apart = partial(DPSGD, nx.empty_graph(4), allow_disconnected=True)
        moves = self.run("nominal", apart, local_steps=2).rows.astype(float) - tiny.vector(tiny.arrays())
        steps = np.array([2, 2, 1, 0.5])
        expected = steps.mean() * (np.array(factors) / steps) @ moves / 4
        got = self.run(estimator, local_steps=2).rows[0] - tiny.vector(tiny.arrays())
        np.testing.assert_allclose(got, expected, atol=1e-6)

    def test_fednova(self) -> None:
        """x+ = x + tau_eff sum_i p_i (y_i - x) / a_i with a = (2, 2, 1, 1/2) steps of F = 2."""
        apart = partial(DPSGD, nx.empty_graph(4), allow_disconnected=True)
        moves = self.run("nominal", apart, local_steps=2).rows.astype(float) - tiny.vector(tiny.arrays())
        steps = np.array([2, 2, 1, 0.5])
        expected = steps.mean() * (moves / steps[:, None]).mean(axis=0)
        got = self.run("nominal", local_steps=2).rows[0] - tiny.vector(tiny.arrays())
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_worker_that_leads_itself_feels_no_force_within_its_steps() -> None:
    """A worker alone; with several steps per round, a pull to the row that it started from would show."""
    work = FullBatch(local_steps=3, batch_size=16, minibatch_size=4)
    led, plain = (tiny.run(ONE[name], 4, 1, work=work, sgd=HYPER) for name in ("al_dsgd in step", "d_psgd"))
    assert led.rows.tobytes() == plain.rows.tobytes()


def test_mixed_momentum_on_the_complete_graph_is_synchronous_sgd() -> None:
    """V <- W V with W = J/N leaves everybody the buffer of the large batch; kept locally, it is another one."""
    complete = partial(DPSGD, "complete", mixing="uniform")
    large = tiny.run(AllReduce, 5, work=FULL, sgd=HYPER)
    mixed = tiny.run(partial(complete, momentum_mixing="mixed"), 5, work=FULL, sgd=HYPER)
    local = tiny.run(complete, 5, work=FULL, sgd=HYPER)
    np.testing.assert_allclose(mixed.rows, large.rows, atol=1e-6)
    assert mixed.strategy.state.momentum is not None
    assert local.strategy.state.momentum is not None
    assert np.ptp(mixed.strategy.state.momentum, axis=0).max() < 1e-6
    assert np.ptp(local.strategy.state.momentum, axis=0).max() > 1e-2
    assert mixed.column("peer_bytes") == [[2 * sent for sent in row] for row in local.column("peer_bytes")]


@pytest.mark.parametrize("optimizer", ["adamw", lambda parameters: torch.optim.AdamW(parameters)])
def test_partial_results_are_weighed_for_sgd_only(optimizer: Any) -> None:
    work = NonBlocking(batch_size=16, minibatch_size=4, estimator="expected")
    with pytest.raises(ValueError, match=r"work.estimator=expected needs optimizer.name=sgd, .*; got (adamw|AdamW)"):
        tiny.run(partial(DPSGD, "ring"), on=InlineGrid(tiny.app(optimizer=optimizer), 4), work=work)
    sgd = tiny.app(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    tiny.run(partial(DPSGD, "ring"), on=InlineGrid(sgd, 4), work=work)


def test_mixed_momentum_must_travel() -> None:
    grid = tiny.app(optimizer="adamw")
    with pytest.raises(ValueError, match=r"momentum_mixing=mixed needs optimizer\.name=sgd"):
        tiny.run(partial(DPSGD, "ring", momentum_mixing="mixed"), on=InlineGrid(grid, 4))


class TestPermutations:
    @settings(max_examples=10)
    @given(st.permutations(range(4)))
    def test_aggregation_does_not_depend_on_the_order_of_replies(self, order: list[int]) -> None:
        results = []
        for ranks in (range(4), order):
            strategy = AllReduce(partition=tiny.partition(4), sgd=SGD(0.3), work=FULL)
            grid = tiny.grid(4, devices=tiny.fleet(1))
            messages = list(strategy.configure_train(1, tiny.arrays(), ConfigRecord(), grid))
            replies = list(grid.send_and_receive(messages))
            arrays, _ = strategy.aggregate_train(1, [replies[rank] for rank in ranks])
            assert arrays is not None
            results.append(tiny.vector(arrays).tobytes())
        assert results[0] == results[1]
