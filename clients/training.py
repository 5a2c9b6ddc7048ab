"""Local training: a pure function of (model row, sample indices, instructions, clock)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from echelon.algorithms.partial import minibatch_sizes
from echelon.algorithms.seeds import rng
from echelon.protocol.messages import TrainInstructions

from .clocks import Clock
from .data import Batch, IndexedData
from .model import FlatModel

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LocalUpdate:
    """Statistics of one round of local training; ``train_loss`` is the mean over samples."""

    samples: int
    minibatches: int
    train_loss: float
    seconds: float
    dropped_seconds: float


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy summed over the mini-batch."""
    return functional.cross_entropy(logits, labels, reduction="sum")


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
        (outputs, labels) -> summed loss.

    Returns
    -------
    LocalUpdate
    """
    stream = (max(instructions.rank, 0), instructions.server_round)
    augment = rng(instructions.seed, "augment", *stream)
    model.module.train()
    samples, minibatches, loss_sum = 0, 0, 0.0
    target = instructions.target_samples or instructions.local_steps * instructions.batch_size
    stopped = False
    # Fork only the generators in use: forking those of CUDA would initialise CUDA in a CPU-only process.
    with torch.random.fork_rng([model.device] if model.device == "cuda" else []):
        torch.manual_seed(int(rng(instructions.seed, "dropout", *stream).integers(2**31)))
        for _ in range(instructions.local_steps):
            start = samples
            model.gradients.zero_()
            for size in minibatch_sizes(min(instructions.batch_size, target - samples), instructions.minibatch_size):
                may_stop = minibatches >= instructions.min_minibatches
                stopped = may_stop and not clock.fits(size, instructions.budget_seconds)
                if stopped:
                    break
                loss_sum += _accumulate(model, data.batch(indices[samples : samples + size], augment), loss)
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


def _accumulate(model: FlatModel, batch: Batch, loss: Loss) -> float:
    """Add a mini-batch's gradient to ``model.gradients``; return its summed loss."""
    x, y = batch
    total = loss(model.module(x.to(model.device)), y.to(model.device))
    total.backward()  # type: ignore[no-untyped-call]
    return total.item()


@torch.no_grad()
def _step(model: FlatModel, instructions: TrainInstructions, velocity: Tensor | None, anchor: Tensor | None) -> None:
    x, direction = model.parameters, model.gradients
    direction.div_(instructions.batch_size)
    if instructions.weight_decay:
        direction.add_(x, alpha=instructions.weight_decay)
    if anchor is not None:
        direction.add_(x - anchor, alpha=instructions.anchor_strength)
    if model.frozen is not None:
        direction.masked_fill_(model.frozen, 0.0)
    if velocity is not None:
        direction = velocity.mul_(instructions.momentum).add_(direction)
    x.sub_(direction, alpha=instructions.learning_rate)
