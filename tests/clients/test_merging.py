"""Mini-batches computed at once: only where nothing ends a round between them, and it is the same mathematics."""

import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients import merging
from clients.objectives import Objective
from clients.training import merged
from echelon.engines.inline import InlineGrid
from strategies import ALDSGD, SGD, AllReduce, FullBatch, NonBlocking
from tests import tiny

WORKERS = 4
WHOLE = FullBatch(local_steps=2, batch_size=22, minibatch_size=4)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the mini-batches whose losses are computed, one worker's at a time."""
    found: list[int] = []
    value = Objective.value

    def counted(self: Objective, model: nn.Module, batch: Any, samples: int, device: str) -> Tensor:
        found.append(samples)
        computed: Tensor = value(self, model, batch, samples, device)
        return computed

    monkeypatch.setattr(Objective, "value", counted)
    return found


def batch_statistics() -> nn.Module:
    return tiny._seeded(lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, track_running_stats=False)))


def between_samples(model: nn.Module, batch: Any) -> Tensor:
    logits: Tensor = model(batch[0])
    return functional.cross_entropy(logits, batch[1], reduction="sum") + (logits - logits.mean(0)).square().sum()


def mean_loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def run(
    batched: Any, make: Any = AllReduce, model: tiny.Model = tiny.linear, rounds: int = 2, **options: Any
) -> tiny.Run:
    app = tiny.app(model, devices=tiny.fleet(1, 0.5), batched=batched, **options.pop("app", {}))
    chosen = {"work": WHOLE, "sgd": SGD(0.2, 0.9), **options}
    return tiny.run(make, rounds, WORKERS, on=InlineGrid(app, WORKERS), model=model, **chosen)


def in_training(sizes: list[int]) -> set[int]:
    """The sizes of the last round, without those of the checks before it."""
    return set(sizes[-4:])


@pytest.mark.parametrize(
    ("batched", "make", "app"),
    [
        (True, AllReduce, {}),
        ("auto", partial(ALDSGD, "ring"), {}),
        (True, AllReduce, {"loss": mean_loss, "reduction": "mean"}),
        (True, AllReduce, {"optimizer": "adam"}),
    ],
)
def test_models_and_records_are_those_of_single_mini_batches(
    batched: Any, make: Any, app: dict[str, Any], sizes: list[int]
) -> None:
    ours = run(batched, make, app=app)
    assert in_training(sizes) == {22}
    loop = run(False, make, app=app)
    np.testing.assert_allclose(ours.rows, loop.rows, rtol=1e-4, atol=1e-5)
    for column in ("minibatches", "virtual_seconds", "present"):
        assert ours.column(column) == loop.column(column)
    np.testing.assert_array_equal(run(batched, make, app=app).rows, ours.rows)


def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped() -> None:
    half = run("auto", rounds=1)
    np.testing.assert_array_equal(run("auto", state=half.strategy.state).rows, run("auto").rows)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": batch_statistics}, "the model or the loss compares samples"),
        ({"app": {"loss": between_samples}}, "the model or the loss compares samples"),
        ({"model": tiny.batch_norm}, "the model has buffers"),
        ({"model": tiny.dropout}, "the model or the loss draws random numbers"),
    ],
)
def test_other_losses_and_models_are_computed_as_told(
    options: dict[str, Any], reason: str, sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        ours = run("auto", **options)
    assert in_training(sizes) <= {4, 2}
    np.testing.assert_array_equal(ours.rows, run(False, **options).rows)
    said = [record.getMessage() for record in caplog.records if "computed one by one" in record.getMessage()]
    assert len(said) == 1
    assert reason in said[0]


@pytest.mark.parametrize(
    "options",
    [{"work": NonBlocking(batch_size=16, minibatch_size=4)}, {"start": {"train_config": {"wall_clock": True}}}],
)
def test_what_may_end_early_is_computed_as_told(options: dict[str, Any], sizes: list[int]) -> None:
    run("auto", **options)
    assert set(sizes) <= {4, 2}


def test_no_more_at_once_than_fits_in_memory(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    monkeypatch.setattr(merging, "MOST_KEPT_BYTES", 9 * _bytes_of_a_sample())
    run("auto")
    assert in_training(sizes) == {8, 6}


def _bytes_of_a_sample() -> int:
    kept: list[int] = []
    x, y = tiny.data()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t)  # type: ignore[func-returns-value]
    with hooks:
        functional.cross_entropy(tiny.linear()(x[:4]), y[:4], reduction="sum")
    return (sum(kept) + x[:4].nbytes + y[:4].nbytes) // 4


def test_groups_are_in_order_and_hold_one_at_least() -> None:
    assert merged([4, 4, 4, 2], 8) == [[4, 4], [4, 2]]
    assert merged([4, 4, 2], 3) == [[4], [4], [2]]
