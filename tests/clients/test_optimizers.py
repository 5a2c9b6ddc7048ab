"""Optimisers: their state at the server, at the worker or nowhere, schedules, clipping and precision."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import clients.app
import clients.data
from clients import make_client_app
from clients.model import FlatModel
from clients.objectives import Objective
from clients.optimizers import MOMENTUM_BUFFER, Optimizer, PlainSGD
from clients.training import train
from echelon.core.clocks import WallClock
from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import TrainInstructions
from echelon.server import checkpoint
from strategies import DPSGD, SGD
from tests import tiny

POOL = tiny.data()


def run(rounds: int = 4, on_round: Any = (), state: Any = None, sgd: SGD | None = None, **options: Any) -> tiny.Run:
    app = make_client_app(
        lambda rank, n: POOL, tiny.linear, device="cpu", fleet=tiny.fleet(1.0), **{"optimizer": "adamw", **options}
    )
    make = partial(DPSGD, "ring", state=state)
    return tiny.run(make, rounds, on=InlineGrid(app, 4), sgd=sgd or SGD(0.05), on_round=[*on_round])


def forget(record: Any, state: Any) -> None:
    """Restart the workers' process."""
    clients.app._workers.clear()


class TestState:
    def test_at_the_server_survives_a_restart(self) -> None:
        assert run(on_round=[forget]).rows.tobytes() == run().rows.tobytes()

    def test_at_the_server_survives_a_resume(self, tmp_path: Path) -> None:
        whole = run(5, on_round=[lambda record, state: checkpoint.save(state, tmp_path / str(state.round))])
        resumed = run(5, state=checkpoint.load(tmp_path / "3"))
        assert resumed.rows.tobytes() == whole.rows.tobytes()
        assert resumed.strategy.state.optimizer.tobytes() == whole.strategy.state.optimizer.tobytes()

    def test_at_the_worker_is_the_same_until_a_restart(self) -> None:
        kept = run(optimizer_state="worker")
        assert kept.rows.tobytes() == run().rows.tobytes()
        assert kept.strategy.state.optimizer.size == 0
        assert run(optimizer_state="worker", on_round=[forget]).rows.tobytes() != kept.rows.tobytes()

    @pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
    def test_reset_is_a_restart_in_every_round(self, optimizer: str) -> None:
        sgd = SGD(0.05, momentum=0.9)
        reset = run(optimizer=optimizer, optimizer_state="reset", sgd=sgd)
        lost = run(optimizer=optimizer, optimizer_state="worker", sgd=sgd, on_round=[forget])
        assert reset.rows.tobytes() == lost.rows.tobytes()
        assert reset.strategy.state.momentum is None

    def test_momentum_at_the_worker(self) -> None:
        sgd = SGD(0.05, momentum=0.9)
        kept, sent = (run(optimizer="sgd", optimizer_state=state, sgd=sgd) for state in ("worker", "server"))
        assert kept.rows.tobytes() == sent.rows.tobytes()
        assert kept.records[0]["downlink_bytes"] < sent.records[0]["downlink_bytes"]

    def test_of_a_factory(self) -> None:
        def make(parameters: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01)

        named = run(optimizer="sgd", sgd=SGD(0.05, 0.9, 0.01))
        for forgets in ([], [forget]):
            assert np.allclose(run(optimizer=make, on_round=forgets).rows, named.rows, atol=1e-6)


def test_the_schedule_scales_a_factorys_learning_rate() -> None:
    def make(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.05)

    milestones: dict[str, Any] = {"lr_milestones": (1, 3), "lr_gamma": 0.5}
    own, named = run(optimizer=make, sgd=SGD(9.0, **milestones)), run(optimizer="sgd", sgd=SGD(0.05, **milestones))
    np.testing.assert_allclose(own.rows, named.rows, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("sgd", (("momentum_buffer",), ())),
        ("adamw", (("exp_avg", "exp_avg_sq"), ("step",))),
        ("adam", (("exp_avg", "exp_avg_sq"), ("step",))),
        ("rmsprop", (("square_avg", "momentum_buffer"), ("step",))),
        ("adagrad", (("sum",), ("step",))),
        (lambda p: torch.optim.SGD(p, lr=0.1), ((), ())),
    ],
)
def test_slots(name: Any, slots: Any) -> None:
    assert tuple(set(part) for part in Optimizer(name).slots) == tuple(set(part) for part in slots)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam", "rmsprop", "adagrad"])
def test_every_named_one_trains(name: str) -> None:
    losses = run(8, optimizer=name, sgd=SGD(0.05, momentum=0.5)).column("train_loss")
    assert losses[-1] < 0.95 * losses[0]


def test_momentum_that_is_not_used_is_no_state_that_is_missing() -> None:
    found = run(2, optimizer="rmsprop", sgd=SGD(0.05))
    assert [record["rejections"] for record in found.records] == [{}, {}]


def step(objective: Objective | None = None, **options: Any) -> FlatModel:
    model = FlatModel(tiny.linear())
    instructions = TrainInstructions(batch_size=32, minibatch_size=8)
    chosen = Optimizer(**options).prepare(model, instructions, {})
    data = clients.data.as_indexed(POOL)
    objective = objective or Objective()
    train(model, data, torch.arange(32), instructions, WallClock(), optimizer=chosen, objective=objective)
    return model


def test_the_norm_of_a_gradient_is_bounded() -> None:
    start = FlatModel(tiny.linear()).parameters
    free, bounded = step().parameters - start, step(max_grad_norm=0.01).parameters - start
    assert torch.linalg.vector_norm(bounded).item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    torch.testing.assert_close(bounded / bounded.norm(), free / free.norm(), atol=1e-3, rtol=0)
    assert torch.equal(step(max_grad_norm=1e9).parameters, step().parameters)


def test_bfloat16_computes_the_loss_and_leaves_parameters_as_they_are() -> None:
    exact, rough = step(), step(Objective(precision="bf16"))
    assert rough.parameters.dtype == torch.float32
    assert not torch.equal(exact.parameters, rough.parameters)
    torch.testing.assert_close(exact.parameters, rough.parameters, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choice": "sophia"}, "optimizer.name must be one of sgd, adamw, adam, rmsprop, adagrad, or a function"),
        ({"state": "disk"}, "optimizer.state must be server, worker or reset; got disk"),
        ({"max_grad_norm": 0.0}, "optimizer.max_grad_norm must be above 0; got 0"),
    ],
)
def test_what_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optimizer(**options)


def test_an_optimiser_that_needs_more_than_the_gradient() -> None:
    with pytest.raises(ValueError, match="a step must need the gradient alone; LBFGS"):
        Optimizer(lambda p: torch.optim.LBFGS(p)).slots  # noqa: B018


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs_to_the_bit(momentum: float) -> None:
    ours, torchs = (torch.nn.Parameter(torch.linspace(-1, 1, 101)) for _ in range(2))
    made: Any = [PlainSGD(ours, 0.1, momentum), torch.optim.SGD([torchs], lr=0.1, momentum=momentum)]
    for step in range(4):
        for parameter, optimizer in zip((ours, torchs), made, strict=True):
            parameter.grad = torch.sin((step + 1) * parameter.detach())
            optimizer.step()
    assert torch.equal(ours, torchs)
    if momentum:
        assert torch.equal(made[0].state[ours][MOMENTUM_BUFFER], made[1].state[torchs][MOMENTUM_BUFFER])
