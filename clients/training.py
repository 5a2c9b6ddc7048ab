"""Local training: a pure function of (model row, sample indices, instructions, clock)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from echelon.algorithms.partial import minibatch_sizes
from echelon.algorithms.seeds import rng
from echelon.protocol.messages import TrainInstructions

from .clocks import Clock
from .data import Batch, IndexedData, batches, to_device
from .model import FlatModel
from .objectives import Loss, Reduction, cross_entropy
from .randomness import seeded


@dataclass(frozen=True)
class LocalUpdate:
    """Statistics of one round of local training; ``train_loss`` is the mean over samples."""

    samples: int
    minibatches: int
    train_loss: float
    seconds: float
    dropped_seconds: float


def train(
    model: FlatModel,
    data: IndexedData,
    indices: Tensor,
    instructions: TrainInstructions,
    clock: Clock,
    *,
    velocity: Tensor | None = None,
    anchor: Tensor | None = None,
    loss: Loss = cross_entropy,
    reduction: Reduction = "sum",
) -> LocalUpdate:
    """Run the local steps of a round, starting from the parameters in ``model``, within the time budget.

    A step accumulates the gradients of the mini-batches of a batch at fixed parameters and applies
    ``x -= lr * v``, ``v = momentum * v + G / B + weight_decay * x + anchor_strength * (x - anchor)`` once. G is the sum
    of the per-sample gradients and B the full batch size, so a batch truncated by the budget follows the ``nominal``
    rule.

    Parameters
    ----------
    model : FlatModel
        Contains the worker's row, which is updated in place.
    data : IndexedData
        The worker's samples.
    indices : int64 tensor, shape (local_steps * batch_size,)
        Samples of the round, in training order.
    instructions : TrainInstructions
        Number of steps, batch and mini-batch size, budget and hyper-parameters.
    clock : Clock
        Decides whether the next mini-batch fits the budget.
    velocity : tensor, shape (P,), optional
        Momentum buffer v, changed in place.
    anchor : tensor, shape (P,), optional
        Target of the corrective force (AL-DSGD with ``force=in_step``).
    loss : callable
        (module, mini-batch) -> loss.
    reduction : {"sum", "mean"}
        What ``loss`` returns: the sum over the mini-batch's samples, or their mean.

    Returns
    -------
    LocalUpdate

    Raises
    ------
    ValueError
        If the loss is not one number that depends on the parameters.
    """
    stream = (max(instructions.rank, 0), instructions.server_round)
    augment = rng(instructions.seed, "augment", *stream)
    model.module.train()
    samples, minibatches, loss_sum = 0, 0, 0.0
    steps = _steps(instructions)
    pieces = [size for sizes in steps for size in sizes]
    upcoming = batches(data, torch.split(indices[: sum(pieces)], pieces), augment)
    stopped = False
    with seeded(int(rng(instructions.seed, "dropout", *stream).integers(2**31)), model.device):
        for sizes in steps:
            start = samples
            model.gradients.zero_()
            for size in sizes:
                may_stop = minibatches >= instructions.min_minibatches
                stopped = may_stop and not clock.fits(size, instructions.budget_seconds)
                if stopped:
                    break
                loss_sum += _accumulate(model, next(upcoming), size, loss, reduction)
                samples, minibatches = samples + size, minibatches + 1
                clock.tick(size)
            if samples > start:
                _step(model, instructions, velocity, anchor)
            if stopped:
                break
    seconds = clock.seconds
    dropped = max(instructions.budget_seconds - seconds, 0.0) if stopped else 0.0
    mean_loss = loss_sum / samples if samples else float("nan")
    return LocalUpdate(samples, minibatches, mean_loss, seconds, dropped)


def _steps(instructions: TrainInstructions) -> list[list[int]]:
    """Return the sizes of the mini-batches of every step of a round."""
    left = instructions.target_samples or instructions.local_steps * instructions.batch_size
    steps = []
    for _ in range(instructions.local_steps):
        steps.append(minibatch_sizes(min(instructions.batch_size, left), instructions.minibatch_size))
        left -= sum(steps[-1])
    return steps


def _accumulate(model: FlatModel, batch: Batch, size: int, loss: Loss, reduction: Reduction) -> float:
    """Add the gradient of a mini-batch of ``size`` samples to ``model.gradients``; return its summed loss."""
    total = loss(model.module, to_device(batch, model.device))
    if not isinstance(total, Tensor) or total.numel() != 1 or not total.requires_grad:
        raise ValueError(f"loss must return one number that depends on the model's parameters; got {_said(total)}")
    if reduction == "mean":
        total = total * size
    total.backward()  # type: ignore[no-untyped-call]
    return total.item()


def _said(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}" + ("" if value.requires_grad else " without a gradient")
    return f"a {type(value).__name__}"


@torch.no_grad()
def _step(model: FlatModel, instructions: TrainInstructions, velocity: Tensor | None, anchor: Tensor | None) -> None:
    x, direction = model.parameters, model.gradients
    direction.div_(instructions.batch_size)
    if instructions.weight_decay:
        direction.add_(x, alpha=instructions.weight_decay)
    if anchor is not None:
        direction.add_(x - anchor, alpha=instructions.anchor_strength)
    if velocity is not None:
        direction = velocity.mul_(instructions.momentum).add_(direction)
    x.sub_(direction, alpha=instructions.learning_rate)
