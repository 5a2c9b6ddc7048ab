"""Workers trained in one batched computation: the numbers of the loop, for whatever can be batched; else the loop."""

import logging
import math
import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from clients import make_client_app, together
from clients.batched import BatchedWorker, Schedule, make_gradients, train_together
from clients.clocks import VirtualClock
from clients.data import TensorData
from clients.fleet import Device, Fleet, Jitter
from clients.forces import Forces
from clients.model import FlatModel
from clients.objectives import Objective
from clients.training import LocalUpdate, train
from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import TrainInstructions
from strategies import ALDSGD, DPSGD, SGD, AllReduce, FullBatch, NonBlocking
from tests import tiny
from tests.clients.any_model import CASES

WORKERS = 9
UNEQUAL = [5, 6, 7, 8, 9, 10, 11, 12, 13]
SEQUENTIAL = {  # and why
    "buffers": "the model has buffers",
    "batch norm": "the model has buffers",
    "spectral norm": "the model has buffers",
    "lstm": "Error: ",
}
SIZES: dict[str, Any] = {"batch_size": 16, "minibatch_size": 4}
X, Y = tiny.data()


@pytest.fixture
def computations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many workers each batched computation trains."""
    sizes: list[int] = []

    def counted(rows: Tensor, *rest: Any) -> list[LocalUpdate]:
        updates = train_together(rows, *rest)
        sizes.append(len(rows))
        return updates

    monkeypatch.setattr(together, "train_together", counted)
    return sizes


def mlp() -> nn.Module:
    return tiny._seeded(lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)))


def large() -> nn.Module:
    return tiny._seeded(lambda: nn.Sequential(nn.Linear(5, 40_000), nn.Linear(40_000, 3)))


def run(batched: Any, make: Any = AllReduce, model: tiny.Model = mlp, **options: Any) -> tiny.Run:
    app_options = options.pop("app", {})
    devices = options.pop("devices", tiny.fleet(1, 1, 0.5, 0.25, jitter=Jitter("shifted_exponential", 0.3)))
    grid = InlineGrid(tiny.app(model, devices=devices, batched=batched, **app_options), WORKERS)
    chosen = {"partition": tiny.partition(WORKERS, sizes=UNEQUAL), **options}
    return tiny.run(make, 3, WORKERS, on=grid, model=model, **chosen)


def assert_equal(ours: tiny.Run, loop: tiny.Run) -> None:
    """Models and losses within float tolerance; everything else, such as the time axis, the same."""
    np.testing.assert_allclose(ours.rows, loop.rows, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(ours.records, loop.records, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"wall_seconds", "evaluation_seconds"}:
            if any(isinstance(value, float) for value in listed(theirs[name])):
                expected = pytest.approx(listed(theirs[name]), rel=1e-5, abs=1e-6, nan_ok=True)
                assert listed(mine[name]) == expected, name
            else:
                assert mine[name] == theirs[name], name
        assert mine["virtual_seconds"] == theirs["virtual_seconds"]


def listed(value: Any) -> list[Any]:
    """A list of numbers, NaN for None."""
    values = value if isinstance(value, list) else [value]
    return [math.nan if number is None else number for number in values]


@pytest.mark.parametrize("name", CASES)
def test_any_model_loss_and_data(name: str, computations: list[int], caplog: pytest.LogCaptureFixture) -> None:
    case = CASES[name]
    initial = {n: v for n, v in case.module().state_dict().items() if v.dtype != torch.bfloat16}

    def rows(batched: bool) -> Any:
        app = make_client_app(
            lambda rank, num_workers: case.data(),
            case.module,
            loss=case.loss,
            reduction=case.reduction,
            device="cpu",
            fleet=tiny.fleet(1.0, 0.5),
            batched=batched,
        )
        made = DPSGD("path", work=NonBlocking(batch_size=8, minibatch_size=3), sgd=SGD(0.05, 0.9, 0.01), eval_every=9)
        made.start(InlineGrid(app, 3), ArrayRecord(initial), 2)
        return made.state.rows

    with caplog.at_level(logging.INFO, "flwr"):
        tolerance = 1e-3 if name == "bf16 base" else 1e-5
        np.testing.assert_allclose(rows(True), rows(False), rtol=tolerance, atol=tolerance / 10)
    reasons = [record.getMessage() for record in caplog.records if "one after the other" in record.getMessage()]
    assert computations == ([] if name in SEQUENTIAL else [3, 3])
    assert len(reasons) == (name in SEQUENTIAL)
    assert SEQUENTIAL.get(name, "") in "".join(reasons)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (AllReduce, {"work": FullBatch(3, 16, 5)}),
        (AllReduce, {"work": FullBatch(1, 16, 16), "sgd": SGD(0.2, 0.9, 0.1), "app": {"max_grad_norm": 0.3}}),
        (partial(DPSGD, "ring"), {"sgd": SGD(0.2, 0.9)}),
        (partial(DPSGD, "ring", momentum_mixing="quasi_global"), {"sgd": SGD(0.2, 0.9)}),
        (partial(AllReduce, correction="tracking"), {"sgd": SGD(0.2, 0.0, 0.1)}),
        (partial(ALDSGD, "ring", force="in_step"), {}),
        (
            partial(DPSGD, "ring", momentum_mixing="mixed"),
            {"work": NonBlocking(3, **SIZES, estimator="memory", min_minibatches=0), "sgd": SGD(0.1, 0.9, 0.01)},
        ),
        (
            AllReduce,
            {
                "work": NonBlocking(**SIZES, estimator="memory", min_minibatches=0),
                "sgd": SGD(0.1, 0.9),
            },
        ),
        (
            AllReduce,
            {
                "work": NonBlocking(**SIZES),
                "devices": Fleet((Device(10.0),), Jitter(), 0.4, 0.5),
            },
        ),
        (partial(DPSGD, "ring"), {"sgd": SGD(0.2, 0.9), "app": {"optimizer_state": "worker"}}),
    ],
)
def test_any_strategy_and_budget(make: Any, options: dict[str, Any], computations: list[int]) -> None:
    ours = run(True, make, **options)
    assert_equal(ours, run(False, make, **options))
    assert sum(computations) == sum(len(present) for present in ours.column("present"))
    np.testing.assert_array_equal(run(True, make, **options).rows, ours.rows)


pieces = st.integers(1, 7)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(3, 14), pieces, st.integers(0, 20), st.floats(0, 6)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.9]),
)
def test_unequal_batches_and_budgets(shapes: list[tuple[int, int, int, float]], steps: int, momentum: float) -> None:
    model, data = FlatModel(mlp()), TensorData(X, Y)
    start = model.parameters.clone()
    workers, loops = [], []
    for rank, (batch, minibatch, target, budget) in enumerate(shapes):
        told = TrainInstructions(
            rank=rank,
            local_steps=steps,
            batch_size=batch,
            minibatch_size=minibatch,
            target_samples=min(target, steps * batch),
            budget_seconds=budget,
            momentum=momentum,
        )
        indices = (torch.arange(steps * batch) * (rank + 3)) % len(X)
        model.parameters.copy_(start)
        loops.append((train(model, data, indices, told, clock()), model.parameters.clone()))
        workers.append(BatchedWorker(data, indices, told, Forces(), Schedule.make(told, clock())))
    rows = start.expand(len(shapes), -1).clone()
    gradients = make_gradients(model, Objective())
    updates = train_together(rows, torch.zeros_like(rows), workers, gradients, "cpu")
    for row, update, (expected, parameters) in zip(rows, updates, loops, strict=True):
        torch.testing.assert_close(row, parameters, rtol=1e-5, atol=1e-6)
        assert update.train_loss == pytest.approx(expected.train_loss, rel=1e-5, nan_ok=True)
        assert replace(update, train_loss=0.0) == replace(expected, train_loss=0.0)


def clock() -> VirtualClock:
    return VirtualClock(5.0, lambda: 1.0)


def drawing(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum") * random.random()


def deciding(model: nn.Module, batch: Any) -> Tensor:
    loss = functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")
    return loss if loss.item() > 3.0 else 2 * loss


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": tiny.dropout}, "the model or the loss draws random numbers, as dropout does"),
        ({"app": {"loss": drawing}}, "the model or the loss draws random numbers"),
        ({"app": {"loss": deciding}}, "RuntimeError|UserCodeError: .*"),
        ({"app": {"optimizer": "adam"}}, "only the steps of sgd are batched, not those of adam"),
    ],
)
def test_what_cannot_be_batched_is_trained_by_the_loop(
    options: dict[str, Any], reason: str, computations: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        ours = run(True, **options)
    np.testing.assert_array_equal(ours.rows, run(False, **options).rows)
    said = [record.getMessage() for record in caplog.records if "one after the other" in record.getMessage()]
    assert computations == []
    assert len(said) == 1
    assert any(part in said[0] for part in reason.split("|"))


def test_real_time_measures_one_worker_at_a_time(computations: list[int]) -> None:
    app = make_client_app(lambda rank, num_workers: (X, Y), mlp, device="cpu", batched=True)
    tiny.run(AllReduce, 2, 3, on=InlineGrid(app, 3), model=mlp)
    assert computations == []


@pytest.mark.parametrize(("workers", "expected"), [(7, []), (8, [8, 8])])
def test_auto_batches_small_models_of_eight_workers(workers: int, expected: list[int], computations: list[int]) -> None:
    grid = InlineGrid(tiny.app(mlp, batched="auto"), workers)
    tiny.run(AllReduce, 2, workers, on=grid, model=mlp, partition=tiny.partition(workers))
    assert computations == expected


def test_auto_leaves_large_models_to_the_loop(computations: list[int], caplog: pytest.LogCaptureFixture) -> None:
    grid = InlineGrid(tiny.app(large, batched="auto"), 8)
    with caplog.at_level(logging.INFO, "flwr"):
        tiny.run(AllReduce, 1, 8, on=grid, model=large, partition=tiny.partition(8))
    assert computations == []
    assert "MB, which the loop does as fast" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_auto_batches_larger_models_on_cuda(computations: list[int]) -> None:
    grid = InlineGrid(tiny.app(large, batched="auto", device="cuda"), 8)
    tiny.run(AllReduce, 1, 8, on=grid, model=large, partition=tiny.partition(8))
    assert computations == [8]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_cuda(computations: list[int]) -> None:
    options: dict[str, Any] = {"work": NonBlocking(**SIZES), "sgd": SGD(0.1, 0.9, 0.01)}
    ours, again, loop = (run(batched, **options, app={"device": "cuda"}) for batched in (True, True, False))
    assert_equal(ours, loop)
    np.testing.assert_array_equal(ours.rows, again.rows, "the same bits twice on CUDA")
    assert computations == [WORKERS] * 6


def test_as_many_at_once_as_fit_in_memory(monkeypatch: pytest.MonkeyPatch, computations: list[int]) -> None:
    parameters = sum(p.numel() for p in mlp().parameters())
    monkeypatch.setattr(together, "_VECTOR_BYTES", 4 * 16 * parameters)
    ours = run(True)
    assert computations == [3, 3, 3] * 3
    assert_equal(ours, run(False))


def test_a_fault_is_that_of_its_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Labels of one worker are out of range: the others train on, and batching is not given up."""
    wrong = torch.full_like(Y, 7)
    runs = []
    for batched in (True, False):
        app = make_client_app(
            lambda rank, num_workers: (X, wrong if rank == 2 else Y),
            mlp,
            device="cpu",
            fleet=tiny.fleet(1.0),
            batched=batched,
        )
        with caplog.at_level(logging.INFO, "flwr"):
            runs.append(tiny.run(AllReduce, 3, 4, on=InlineGrid(app, 4), model=mlp, partition=tiny.partition(4)))
        assert runs[-1].column("rejected") == [1, 1, 1]
    assert_equal(*runs)
    assert runs[0].column("present") == [[0, 1, 3]] * 3
    assert "one after the other" not in caplog.text
