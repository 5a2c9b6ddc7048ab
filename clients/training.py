"""Local training: a pure function of (model row, sample indices, instructions, clock)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from echelon.algorithms.partial import minibatch_sizes
from echelon.algorithms.seeds import rng
from echelon.core.clocks import Clock
from echelon.protocol.messages import TrainInstructions

from .data import IndexedData, batches
from .errors import naming
from .forces import Forces
from .model import FlatModel
from .objectives import Objective
from .optimizers import Optimizer, Steps
from .randomness import seeded

CROSS_ENTROPY = Objective()
NO_FORCES = Forces()


@dataclass(frozen=True)
class LocalUpdate:
    """Statistics of one round of local training; ``train_loss`` is the mean over samples."""

    samples: int
    minibatches: int
    train_loss: float
    seconds: float
    dropped_seconds: float

    @classmethod
    def make(
        cls, samples: int, minibatches: int, loss_sum: float, seconds: float, budget_seconds: float, stopped: bool
    ) -> Self:
        """Return the statistics of a round with a sum of losses over its samples; ``stopped`` if work was left."""
        limited = stopped and math.isfinite(budget_seconds)  # an event may have ended the round
        dropped = max(budget_seconds - seconds, 0.0) if limited else 0.0
        return cls(samples, minibatches, loss_sum / samples if samples else math.nan, seconds, dropped)


def train(
    model: FlatModel,
    data: IndexedData,
    indices: Tensor,
    instructions: TrainInstructions,
    clock: Clock,
    *,
    optimizer: Steps | None = None,
    forces: Forces = NO_FORCES,
    objective: Objective = CROSS_ENTROPY,
    most_samples: int = 0,
) -> LocalUpdate:
    """Run the local steps of a round, starting from the parameters in ``model``, within the time budget.

    A step accumulates the gradients of the mini-batches of a batch at fixed parameters and applies them once; with SGD
    ``x -= lr * v``, ``v = momentum * v + G / B + weight_decay * x + forces``. G is the sum of the per-sample gradients
    and B the full batch size, so a batch truncated by the budget follows the ``nominal`` rule.

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
    optimizer : Steps, optional
        Takes the steps; plain SGD without earlier momentum by default.
    forces : Forces
        What is added to the gradient of every step.
    objective : Objective
        What to minimise.
    most_samples : int
        Compute mini-batches of a step at once, up to so many samples; by default one by one. Only where neither the
        budget nor an event can end the round between them (see :mod:`clients.merging`).

    Returns
    -------
    LocalUpdate

    Raises
    ------
    ValueError
        If the loss is not one number that depends on the parameters.
    """
    stream = (max(instructions.rank, 0), instructions.server_round)
    model.module.train()
    samples, minibatches, loss_sum = 0, 0, 0.0
    steps = optimizer or Optimizer().prepare(model, instructions, {})
    pieces_of_steps = [merged(sizes, most_samples) for sizes in minibatches_of(instructions)]
    pieces = [sum(piece) for in_step in pieces_of_steps for piece in in_step]
    augment = partial(rng, instructions.seed, "augment", *stream)
    upcoming = batches(data, torch.split(indices[: sum(pieces)], pieces), augment)
    stopped = False
    with seeded(int(rng(instructions.seed, "dropout", *stream).integers(2**31)), model.device):
        for in_step in pieces_of_steps:
            start = samples
            model.gradients.zero_()
            for piece in in_step:
                size, may_stop = sum(piece), minibatches >= instructions.min_minibatches
                stopped = stopped or (may_stop and not clock.fits(size, instructions.budget_seconds))
                if stopped:
                    break
                loss = objective.total(model.module, next(upcoming), size, model.device)
                with naming("the gradient of loss(model, batch)"):
                    loss.backward()  # type: ignore[no-untyped-call]
                loss_sum += loss.item()
                samples, minibatches = samples + size, minibatches + len(piece)
                for minibatch in piece:
                    clock.tick(minibatch)
            fills_in = forces.memory is not None or (forces.remembers and samples > 0)
            if samples > start or fills_in:
                steps.take(instructions.batch_size, samples - start, forces)
            if stopped and not fills_in:
                break
    return LocalUpdate.make(samples, minibatches, loss_sum, clock.seconds, instructions.budget_seconds, stopped)


def minibatches_of(instructions: TrainInstructions) -> list[list[int]]:
    """Return the sizes of the mini-batches of every step of a round."""
    left = instructions.target_samples or instructions.local_steps * instructions.batch_size
    steps = []
    for _ in range(instructions.local_steps):
        steps.append(minibatch_sizes(min(instructions.batch_size, left), instructions.minibatch_size))
        left -= sum(steps[-1])
    return steps


def merged(sizes: list[int], most_samples: int) -> list[list[int]]:
    """Return mini-batches in groups of at most so many samples, in order, each of one at least.

    Examples
    --------
    >>> from echelon.clients.training import merged
    >>> merged([8, 8, 8, 4], 16), merged([8, 8], 0)
    ([[8, 8], [8, 4]], [[8], [8]])
    """
    groups: list[list[int]] = []
    for size in sizes:
        if groups and sum(groups[-1]) + size <= most_samples:
            groups[-1].append(size)
        else:
            groups.append([size])
    return groups
