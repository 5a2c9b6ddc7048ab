"""Momentum and corrections that the host keeps, in real runs: the definitions written out, absent workers, refusals."""

from collections.abc import Callable
from functools import partial
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from clients.fleet import Device, Fleet
from echelon.algorithms.mixing import metropolis
from echelon.algorithms.topology import build
from echelon.core.operations import base_matrix
from echelon.engines.inline import InlineGrid
from strategies import (
    ALDSGD,
    DPSGD,
    SGD,
    AllReduce,
    FedBuff,
    FlowerStrategy,
    FullBatch,
    Matcha,
    NonBlocking,
    NormLimit,
    RoundNumbers,
)
from tests import tiny
from tests.strategies.table import STRATEGIES
from tests.strategies.test_equivalences import visited

Numbers = NDArray[np.float64]
Gradient = Callable[[int, int, int, Numbers], Numbers]

X, Y = tiny.data()
STEPS = 2
WORK = FullBatch(STEPS, 8, 4)
RING = metropolis(build("ring", 4))
MEAN = np.full((4, 4), 0.25)
QUASI: dict[str, Any] = {"momentum_mixing": "quasi_global"}
TRACKING: dict[str, Any] = {"correction": "tracking"}
OFTEN_AWAY = Fleet((Device(10.0), Device(10.0, on_intervals=((0.0, 2.0), (12.0, float("inf"))))))


def start() -> Numbers:
    return np.tile(tiny.vector(tiny.arrays()), (4, 1))


def streams(rounds: int) -> list[list[int]]:
    """Return the samples of each worker in training order."""
    parts = tiny.partition(4).parts
    assert parts is not None
    batches = (visited(part, rank, rounds * STEPS, 8) for rank, part in enumerate(parts))
    return [[sample for batch in of_worker for sample in batch] for of_worker in batches]


def slope(here: list[int], x: Numbers) -> Numbers:
    """Return the gradient of the linear model's mean loss on some samples."""
    values = torch.tensor(x, requires_grad=True)
    weight, bias = values[: tiny.FEATURES * tiny.CLASSES], values[tiny.FEATURES * tiny.CLASSES :]
    logits = functional.linear(X[here].double(), weight.view(tiny.CLASSES, tiny.FEATURES), bias)
    torch.autograd.backward(functional.cross_entropy(logits, Y[here]))
    assert values.grad is not None
    return np.asarray(values.grad.numpy())


def corrections(run: tiny.Run) -> Numbers:
    held: Any = run.strategy.state.extras["tracking"]
    return np.asarray(held, dtype=np.float64)


def gradients(rounds: int, weight_decay: float = 0.0) -> Gradient:
    """Return a function (rank, round, step, x) -> gradient of the linear model on that step's batch, both from 0."""
    samples = streams(rounds)

    def gradient(rank: int, number: int, step: int, x: Numbers) -> Numbers:
        first = 8 * (number * STEPS + step)
        return slope(samples[rank][first : first + 8], x) + weight_decay * x

    return gradient


class TestQuasiGlobal:
    @pytest.mark.parametrize(("make", "matrix"), [(partial(DPSGD, "ring"), RING), (AllReduce, MEAN)])
    def test_written_out(self, make: Any, matrix: Numbers) -> None:
        """Steps x -= lr (mu m + g) with m fixed; m <- mu m + (1 - mu) (x_start - x_mixed) / (F lr)."""
        sgd = SGD(0.2, momentum=0.8, weight_decay=0.01, lr_milestones=(3,), lr_gamma=0.5)
        run = tiny.run(partial(make, **QUASI), 5, work=WORK, sgd=sgd)
        x, m, gradient = start(), np.zeros_like(start()), gradients(5, 0.01)
        for number in range(5):
            before, rate = x.copy(), sgd.at(number + 1)
            for rank in range(4):
                for step in range(STEPS):
                    x[rank] -= rate * (0.8 * m[rank] + gradient(rank, number, step, x[rank]))
            x = matrix @ x
            m = 0.8 * m + 0.2 * (before - x) / (STEPS * rate)
        np.testing.assert_allclose(run.rows, x, atol=1e-5)
        kept: Any = run.strategy.state.extras["quasi_global"]
        np.testing.assert_allclose(kept, m, atol=1e-4)
        assert run.strategy.state.momentum is None, "no buffer of the workers' own"

    @pytest.mark.parametrize("make", [partial(DPSGD, "ring"), AllReduce, partial(Matcha, "ring")])
    def test_without_momentum_it_is_plain_sgd(self, make: Any) -> None:
        plain, quasi = (tiny.run(partial(make, **keys), 4, sgd=SGD(0.2)) for keys in ({}, QUASI))
        assert quasi.rows.tobytes() == plain.rows.tobytes()
        assert quasi.column("downlink_bytes") == plain.column("downlink_bytes")

    def test_an_absent_worker_keeps_its_buffer(self) -> None:
        kept: list[Numbers] = []
        run = tiny.run(
            partial(DPSGD, "ring", **QUASI),
            14,
            devices=OFTEN_AWAY,
            sgd=SGD(0.2, momentum=0.8),
            on_round=[lambda record, state: kept.append(state.extras["quasi_global"].copy())],
        )
        away = [index for index, record in enumerate(run.records) if 1 not in record["present"]]
        assert away
        for index in away:
            np.testing.assert_array_equal(kept[index][1], kept[index - 1][1])
            assert (kept[index][0] != kept[index - 1][0]).any()

    def test_one_vector_more_to_the_workers_and_none_back(self) -> None:
        plain = tiny.run(partial(DPSGD, "ring"), 2, sgd=SGD(0.2))
        quasi = tiny.run(partial(DPSGD, "ring", **QUASI), 2, sgd=SGD(0.2, momentum=0.5))
        assert quasi.column("uplink_bytes") == plain.column("uplink_bytes")
        assert quasi.column("peer_bytes") == plain.column("peer_bytes")
        assert quasi.records[0]["downlink_bytes"] > plain.records[0]["downlink_bytes"] + 4 * 18 * 4

    @pytest.mark.parametrize("options", [{"optimizer": "adamw"}, {"optimizer_state": "reset"}])
    def test_it_needs_sgd(self, options: dict[str, Any]) -> None:
        grid = InlineGrid(tiny.app(**options), 4)
        with pytest.raises(
            ValueError,
            match=r"momentum_mixing=quasi_global needs optimizer\.(name=sgd; got (adamw|AdamW)|state=server; got)",
        ):
            tiny.run(partial(DPSGD, "ring", **QUASI), on=grid, sgd=SGD(0.2, momentum=0.5))


class TestTracking:
    def test_one_model_is_scaffold(self) -> None:
        """Control variates written out: y -= lr (g - c_i + c); c_i+ = c_i - c + (x - y) / (F lr); c = mean c_i."""
        run = tiny.run(partial(AllReduce, **TRACKING), 5, work=WORK, sgd=SGD(0.2))
        x, own, gradient = start()[0], np.zeros_like(start()), gradients(5)
        for number in range(5):
            common, y = own.mean(axis=0), np.tile(x, (4, 1))
            for rank in range(4):
                for step in range(STEPS):
                    y[rank] -= 0.2 * (gradient(rank, number, step, y[rank]) - own[rank] + common)
            own = own - common + (x - y) / (STEPS * 0.2)
            x = y.mean(axis=0)
        np.testing.assert_allclose(run.rows, np.tile(x, (4, 1)), atol=1e-5)
        np.testing.assert_allclose(corrections(run), own.mean(axis=0) - own, atol=1e-4)

    def test_one_step_is_gradient_tracking(self) -> None:
        """x+ = W (x - lr y), y+ = W y + g+ - g, y = g at first."""
        run = tiny.run(partial(DPSGD, "ring", **TRACKING), 6, work=FullBatch(1, 8, 4), sgd=SGD(0.2))
        x, gradient = start(), gradients(6)
        old = y = np.array([gradient(rank, 0, 0, x[rank]) for rank in range(4)])
        for number in range(1, 7):
            x = RING @ (x - 0.2 * y)
            if number < 6:
                half = divmod(number, STEPS)
                new = np.array([gradient(rank, *half, x[rank]) for rank in range(4)])
                y, old = RING @ y + new - old, new
        np.testing.assert_allclose(run.rows, x, atol=1e-5)

    @pytest.mark.parametrize("keys", [{}, QUASI, {"momentum_mixing": "mixed"}], ids=["local", "quasi-global", "mixed"])
    def test_with_momentum_and_partial_steps_written_out(self, keys: dict[str, Any]) -> None:
        """(2, 2, 1, 1/2) of 2 steps of 8 samples; a correction enters a partial step by its share."""
        work = NonBlocking(local_steps=2, batch_size=8, minibatch_size=4)
        sgd = SGD(0.2, momentum=0.6, weight_decay=0.05)
        run = tiny.run(partial(DPSGD, "ring", **keys, **TRACKING), 5, work=work, sgd=sgd)
        done = ((8, 8), (8, 8), (8,), (4,))
        assert run.records[-1]["samples"] == [sum(steps) for steps in done]
        quasi = keys == QUASI
        x, v, m, c = start(), *(np.zeros_like(start()) for _ in range(3))
        batches, used = streams(5), [0] * 4
        for _ in range(5):
            before, z = x.copy(), np.zeros_like(x)
            for rank, steps in enumerate(done):
                for size in steps:
                    here = batches[rank][used[rank] : used[rank] + size]
                    used[rank] += size
                    share = size / 8
                    corrected = share * (slope(here, x[rank]) + 0.05 * x[rank] + c[rank])
                    z[rank] += corrected / (sum(steps) / 8)
                    v[rank] = (m[rank] if quasi else v[rank]) * 0.6 + corrected
                    x[rank] -= 0.2 * v[rank]
            c, x = c - z + RING @ z, RING @ x
            v = RING @ v if keys == {"momentum_mixing": "mixed"} else v
            m = 0.6 * m + 0.4 * (before - x) / (2 * 0.2)
        np.testing.assert_allclose(run.rows, x, atol=2e-5)
        np.testing.assert_allclose(corrections(run), c, atol=2e-4)

    @pytest.mark.parametrize("name", [name for name in STRATEGIES if "tracking" in name])
    def test_corrections_add_up_to_zero_and_stay_with_absent_workers(self, name: str) -> None:
        """Where workers weigh as much as the samples that they hold, the sum is weighted so."""
        sizes = (30, 20, 19, 10, 10)
        weights = np.array(sizes) / 20 if name.startswith(("all_reduce", "over_selection")) else np.ones(5)
        kept: list[Numbers] = []

        def note(record: Any, state: Any) -> None:
            kept.append(state.extras.get("tracking", np.zeros((5, 18))).astype(float))

        fleet = tiny.fleet(1, 1, 0.5, 0.25, 2, leave_probability=0.4, return_probability=0.5)
        options: dict[str, Any] = {"partition": tiny.partition(5, sizes=sizes), "sgd": SGD(0.1, momentum=0.5)}
        run = tiny.run(STRATEGIES[name], 12, 5, devices=fleet, on_round=[note], **options)
        assert len({tuple(present) for present in run.column("present")}) > 3
        assert np.abs(kept[-1]).max() > 0.1
        for index, record in enumerate(run.records):
            np.testing.assert_allclose(weights @ kept[index], 0, atol=1e-5)
            for rank in set(range(5)) - set(record["present"]) if index else ():
                np.testing.assert_array_equal(kept[index][rank], kept[index - 1][rank])

    @pytest.mark.parametrize("make", [partial(DPSGD, "ring"), partial(ALDSGD, "ring"), AllReduce])
    def test_the_matrix_of_every_set_of_absent_workers_keeps_the_sum(self, make: Any) -> None:
        """Without leaders, and without a present worker that has not finished anything."""
        strategy = make(**TRACKING)
        strategy.lay_out(5, np.full(5, 10))
        for present in chain.from_iterable(combinations(range(5), size) for size in range(1, 6)):
            numbers = RoundNumbers(
                round=1,
                present=np.array(present),
                losses=np.arange(5.0),
                samples=np.where(np.isin(np.arange(5), present), 8, 0),
                mean_samples=np.full(5, 8.0),
                shard_sizes=np.where(np.isin(np.arange(5), present), 10, 0),
                batch_sizes=np.full(5, 8),
            )
            mixing = strategy.mixing(numbers)
            for finished in (present, present[1:]):
                matrix = base_matrix(mixing, np.array(finished, dtype=np.int64))
                np.testing.assert_allclose(matrix.sum(axis=0), 1)
                np.testing.assert_allclose(matrix.sum(axis=1), 1)
                for rank in set(range(5)) - set(finished):
                    assert matrix[rank, rank] == 1

    def test_it_is_counted_as_traffic(self) -> None:
        for make in (partial(DPSGD, "ring"), AllReduce):
            plain, tracking = (tiny.run(partial(make, **keys), 1) for keys in ({}, TRACKING))
            assert tracking.column("peer_bytes") == [[2 * sent for sent in row] for row in plain.column("peer_bytes")]
            assert tracking.column("uplink_bytes") == plain.column("uplink_bytes")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"robust": True}, r"strategy\.robust must be false with strategy\.correction=tracking, .*; got true"),
            ({"norm_limit": NormLimit(2.0)}, r"strategy\.max_update_norm must be null with .*; got 2\.0"),
            ({"fold_late": True}, r"work\.fold_late must be false with strategy\.correction=tracking, .*; got true"),
        ],
    )
    def test_refusals(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            AllReduce(**TRACKING, **options)
        with pytest.raises(ValueError, match=r"strategy\.correction must be none with FedBuff; got tracking"):
            FedBuff(**TRACKING)

    def test_a_warning_where_local_momentum_makes_it_diverge(self, caplog: pytest.LogCaptureFixture) -> None:
        momentum, sizes = SGD(0.1, momentum=0.9), np.ones(8, dtype=np.int64)
        DPSGD("one_peer", sgd=momentum, **TRACKING).lay_out(8, sizes)
        assert "topology.schedule=one_peer: use strategy.momentum_mixing=mixed" in caplog.text
        caplog.clear()
        DPSGD("one_peer", sgd=momentum, momentum_mixing="mixed", **TRACKING).lay_out(8, sizes)
        DPSGD("ring", sgd=momentum, **TRACKING).lay_out(8, sizes)
        DPSGD("one_peer", sgd=SGD(0.1), **TRACKING).lay_out(8, sizes)
        assert "one_peer" not in caplog.text

    def test_it_needs_sgd(self) -> None:
        with pytest.raises(ValueError, match=r"correction=tracking needs optimizer\.name=sgd; got (adamw|AdamW)"):
            tiny.run(partial(AllReduce, **TRACKING), on=InlineGrid(tiny.app(optimizer="adamw"), 4))


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (AllReduce, "local", "strategy.momentum_mixing must be mixed or quasi_global with AllReduce; got local"),
        (FedBuff, "mixed", "strategy.momentum_mixing must be local with FedBuff; got mixed"),
        (DPSGD, "none", "strategy.momentum_mixing must be local or mixed or quasi_global with DPSGD; got none"),
    ],
)
def test_choices(make: type[FlowerStrategy], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(momentum_mixing=value)
