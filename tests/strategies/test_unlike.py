"""Momentum that the host keeps, in real runs: against its definition written out, with absent workers, refusals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from clients.fleet import Device, Fleet
from echelon.algorithms.mixing import metropolis
from echelon.algorithms.topology import build
from echelon.engines.inline import InlineGrid
from strategies import DPSGD, SGD, AllReduce, FedBuff, FlowerStrategy, FullBatch, Matcha
from tests import tiny
from tests.strategies.test_equivalences import visited

Numbers = NDArray[np.float64]
Gradient = Callable[[int, int, int, Numbers], Numbers]

X, Y = tiny.data()
STEPS = 2
WORK = FullBatch(STEPS, 8, 4)
RING = metropolis(build("ring", 4))
MEAN = np.full((4, 4), 0.25)
QUASI: dict[str, Any] = {"momentum_mixing": "quasi_global"}
OFTEN_AWAY = Fleet((Device(10.0), Device(10.0, on_intervals=((0.0, 2.0), (12.0, float("inf"))))))


def start() -> Numbers:
    return np.tile(tiny.vector(tiny.arrays()), (4, 1))


def gradients(rounds: int, weight_decay: float = 0.0) -> Gradient:
    """Return a function (rank, round, step, x) -> gradient of the linear model on that step's batch, both from 0."""
    parts = tiny.partition(4).parts
    assert parts is not None
    batches = [visited(part, rank, rounds * STEPS, 8) for rank, part in enumerate(parts)]

    def gradient(rank: int, number: int, step: int, x: Numbers) -> Numbers:
        values = torch.tensor(x, requires_grad=True)
        weight, bias = values[: tiny.FEATURES * tiny.CLASSES], values[tiny.FEATURES * tiny.CLASSES :]
        here = batches[rank][number * STEPS + step]
        logits = functional.linear(X[here].double(), weight.view(tiny.CLASSES, tiny.FEATURES), bias)
        torch.autograd.backward(functional.cross_entropy(logits, Y[here]))
        assert values.grad is not None
        return np.asarray(values.grad.numpy() + weight_decay * x)

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
        with pytest.raises(ValueError, match=r"momentum_mixing=quasi_global needs optimizer\.name=sgd and"):
            tiny.run(partial(DPSGD, "ring", **QUASI), on=grid, sgd=SGD(0.2, momentum=0.5))


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
