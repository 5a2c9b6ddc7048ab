"""Local training compared with plain torch and with its definition (one step = one batch of mini-batches)."""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.clocks import VirtualClock
from clients.data import Batch, TensorData
from clients.forces import Forces
from clients.model import FlatModel
from clients.objectives import Objective
from clients.optimizers import MOMENTUM_BUFFER, Optimizer
from clients.training import LocalUpdate, train
from echelon.protocol.messages import TrainInstructions
from tests import tiny

X, Y = tiny.data()
BASE = TrainInstructions(rank=0, batch_size=32, minibatch_size=8, learning_rate=0.1)


def run(
    instructions: TrainInstructions,
    build: tiny.Model = tiny.linear,
    *,
    seconds_per_sample: float = 0.0,
    data: Any = None,
    saved: Tensor | None = None,
    **options: Any,
) -> tuple[FlatModel, LocalUpdate]:
    model = FlatModel(build())
    if saved is not None:
        options["optimizer"] = Optimizer().prepare(model, instructions, {MOMENTUM_BUFFER: saved})
    if "loss" in options:
        options["objective"] = Objective(options.pop("loss"))
    indices = torch.arange(instructions.local_steps * instructions.batch_size) % len(Y)
    clock = VirtualClock(1 / seconds_per_sample if seconds_per_sample else float("inf"), lambda: 1.0)
    return model, train(model, data or TensorData(X, Y), indices, instructions, clock, **options)


def plain(steps: int, build: tiny.Model = tiny.linear, minibatch: int = 32, **options: Any) -> tuple[nn.Module, float]:
    """Plain torch: gradients of mini-batches accumulated at fixed parameters, one optimiser step per batch of 32."""
    module = build().train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, **options)
    losses = []
    for step in range(steps):
        optimiser.zero_grad()
        for start in range(step * 32, (step + 1) * 32, minibatch):
            here = torch.arange(start, start + minibatch) % len(Y)
            loss = functional.cross_entropy(module(X[here]), Y[here], reduction="sum")
            torch.autograd.backward(loss / 32)
            losses.append(loss.item())
        optimiser.step()
    return module, sum(losses) / (32 * steps)


def assert_same(model: FlatModel, module: nn.Module, tolerance: float = 1e-6) -> None:
    for (name, ours), theirs in zip(model.module.state_dict().items(), module.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=name)


class TestAgainstTorch:
    @pytest.mark.parametrize("build", [tiny.linear, tiny.batch_norm])
    @pytest.mark.parametrize(
        "hyper", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1}]
    )
    def test_sgd(self, build: tiny.Model, hyper: dict[str, Any]) -> None:
        model, update = run(replace(BASE, local_steps=5, **hyper), build)
        module, loss = plain(5, build, minibatch=8, **hyper)
        assert_same(model, module)
        assert update.train_loss == pytest.approx(loss, rel=1e-6)

    def test_four_minibatches_of_8_are_one_batch_of_32(self) -> None:
        model, update = run(replace(BASE, local_steps=2))
        module, _ = plain(2, minibatch=32)
        assert_same(model, module)
        assert (update.samples, update.minibatches) == (64, 8)

    def test_a_short_last_minibatch(self) -> None:
        model, update = run(replace(BASE, minibatch_size=10))
        module, _ = plain(1, minibatch=32)
        assert_same(model, module)
        assert update.minibatches == 4

    def test_frozen_parameters_stay(self) -> None:
        def build() -> nn.Module:
            module = tiny.batch_norm()
            module[0].requires_grad_(False)  # type: ignore[index]
            return module

        hyper: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.1}
        model, _ = run(replace(BASE, local_steps=3, **hyper), build)
        module, _ = plain(3, build, minibatch=8, **hyper)
        assert_same(model, module)

    def test_anchor_adds_a_pull_to_the_gradient(self) -> None:
        anchor = torch.linspace(-1, 1, 18)
        model, _ = run(BASE, forces=Forces(anchor, 0.3))
        without, _ = run(BASE)
        start = FlatModel(tiny.linear()).parameters
        torch.testing.assert_close(model.parameters, without.parameters - 0.1 * 0.3 * (start - anchor))


paced = partial(run, seconds_per_sample=0.1)


class TestBudget:
    """Mini-batches of 8 samples take 0.8 s; four make a batch."""

    @pytest.mark.parametrize(
        ("budget", "minibatches"), [(0.0, 1), (0.8, 1), (1.59, 1), (1.6, 2), (3.1, 3), (3.2, 4), (99.0, 4)]
    )
    def test_stops_when_the_next_minibatch_would_not_fit(self, budget: float, minibatches: int) -> None:
        _, update = paced(replace(BASE, budget_seconds=budget))
        assert update.minibatches == minibatches
        assert update.samples == 8 * minibatches
        assert update.seconds == pytest.approx(0.8 * minibatches)
        expected = max(budget - update.seconds, 0.0) if minibatches < 4 else 0.0
        assert update.dropped_seconds == pytest.approx(expected, abs=1e-6)

    def test_a_cut_batch_enters_by_the_nominal_rule(self) -> None:
        """x - lr S / B with the sum S over the finished samples, although only 16 of 32 are done."""
        model, update = paced(replace(BASE, budget_seconds=1.6, weight_decay=0.0))
        module = tiny.linear()
        torch.autograd.backward(functional.cross_entropy(module(X[:16]), Y[:16], reduction="sum"))
        start = FlatModel(tiny.linear()).parameters
        gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
        torch.testing.assert_close(model.parameters, start - 0.1 * gradient / 32)
        assert update.train_loss == pytest.approx(functional.cross_entropy(module(X[:16]), Y[:16]).item(), rel=1e-6)

    def test_it_covers_all_steps_of_the_round(self) -> None:
        _, update = paced(replace(BASE, local_steps=3, budget_seconds=4.9))
        assert update.minibatches == 6
        partial, _ = paced(replace(BASE, local_steps=3, budget_seconds=4.9))
        whole, _ = run(BASE)
        assert not torch.equal(partial.parameters, whole.parameters)

    def test_nothing_finished_changes_nothing(self) -> None:
        """A step without a finished mini-batch is not taken, not even by weight decay or momentum."""
        velocity = torch.ones(18)
        instructions = replace(BASE, min_minibatches=0, budget_seconds=0.5, weight_decay=0.1, momentum=0.9)
        model, update = paced(instructions, saved=velocity)
        assert torch.equal(model.parameters, FlatModel(tiny.linear()).parameters)
        assert torch.equal(velocity, torch.ones(18))
        assert (update.samples, update.minibatches, update.seconds) == (0, 0, 0.0)
        assert np.isnan(update.train_loss)

    def test_at_least_so_many(self) -> None:
        _, update = paced(replace(BASE, min_minibatches=3, budget_seconds=0.1))
        assert update.minibatches == 3

    @pytest.mark.parametrize(("target", "minibatches"), [(32, 4), (24, 3), (12, 2), (3, 1), (0, 4)])
    def test_the_rest_of_a_batch(self, target: int, minibatches: int) -> None:
        _, update = paced(replace(BASE, target_samples=target))
        assert update.minibatches == minibatches
        assert update.samples == (target or 32)

    def test_the_two_parts_of_a_batch_are_the_batch(self) -> None:
        """Without curvature (loss linear in the parameters) 12 + 20 samples give the same result as 32."""
        linear_loss: dict[str, Any] = {"loss": lambda model, b: (model(b[0]) * functional.one_hot(b[1], 3)).sum()}
        whole, _ = run(BASE, **linear_loss)
        model = FlatModel(tiny.linear())
        clock = VirtualClock(float("inf"), lambda: 1.0)
        for indices in (torch.arange(12), torch.arange(12, 32)):
            part = replace(BASE, target_samples=len(indices))
            train(model, TensorData(X, Y), indices, part, clock, objective=Objective(linear_loss["loss"]))
        torch.testing.assert_close(model.parameters, whole.parameters)


class TestRandomness:
    def test_dropout_depends_on_seed_rank_and_round_alone(self) -> None:
        first, _ = run(BASE, tiny.dropout)
        torch.rand(7)  # whatever else happens in the process
        again, _ = run(BASE, tiny.dropout)
        assert torch.equal(first.parameters, again.parameters)
        for other in (replace(BASE, seed=1), replace(BASE, rank=1), replace(BASE, server_round=2)):
            changed, _ = run(other, tiny.dropout)
            assert not torch.equal(first.parameters, changed.parameters)

    def test_the_global_generator_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        run(BASE, tiny.dropout)
        assert torch.equal(torch.get_rng_state(), before)

    def test_data_may_draw_from_numpy_and_python(self) -> None:
        class Drawing(TensorData):
            def batch(self, indices: Tensor, generator: np.random.Generator) -> Batch:
                drawn.append((np.random.random(), random.random()))  # noqa: NPY002
                return super().batch(indices, generator)

        drawn: list[tuple[float, float]] = []
        before = np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]  # noqa: NPY002
        for _ in range(2):
            run(BASE, data=Drawing(X, Y))
        assert drawn[:4] == drawn[4:]
        assert len(set(drawn)) == 4
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # type: ignore[index]  # noqa: NPY002
        assert random.getstate() == before[1]

    def test_augmentation_gets_one_stream_per_rank_and_round(self) -> None:
        class Augmented(TensorData):
            def __init__(self) -> None:
                super().__init__(X, Y)
                self.drawn: list[float] = []

            def batch(self, indices: Tensor, generator: np.random.Generator) -> Batch:
                self.drawn.append(float(generator.random()))
                return super().batch(indices, generator)

        def draws(**place: Any) -> list[float]:
            data = Augmented()
            run(replace(BASE, **place), data=data)
            return data.drawn

        assert draws() == draws()
        assert len(set(draws())) == 4
        assert draws() != draws(server_round=2)
        assert draws() != draws(rank=3)


def test_another_loss() -> None:
    model, update = run(BASE, loss=lambda model, batch: (model(batch[0]) ** 2).sum())
    module = tiny.linear()
    loss = (module(X[:32]) ** 2).sum()
    torch.autograd.backward(loss / 32)
    assert update.train_loss == pytest.approx(loss.item() / 32, rel=1e-6)
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert_same(model, module)
