"""Local training of several workers in one batched computation: the steps of :mod:`clients.training` by `torch.func`.

Each worker is a row of a matrix. Workers whose next mini-batches have the same size compute their gradients in one
`vmap`; steps and forces act on runs of neighbouring rows. Which mini-batches a worker finishes follows from its
simulated clock alone, before anything is computed.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from echelon.algorithms.seeds import rng
from echelon.core.clocks import Clock
from echelon.protocol.messages import TrainInstructions

from .data import Batch, IndexedData, batches, map_tensors, stack
from .forces import Forces
from .model import FlatModel
from .objectives import Objective
from .randomness import seeded
from .training import LocalUpdate, merged, minibatches_of

Gradients = Callable[[Tensor, Batch, int], tuple[Tensor, Tensor]]
Rows = slice | Tensor


@dataclass(frozen=True)
class Schedule:
    """What a worker finishes in a round: the sizes of the mini-batches of every step that it begins."""

    steps: tuple[tuple[int, ...], ...]
    seconds: float
    stopped: bool

    @classmethod
    def make(cls, instructions: TrainInstructions, clock: Clock) -> "Schedule":
        """Return what fits the budget; the clock must not depend on real time."""
        steps, minibatches, stopped = [], 0, False
        for sizes in minibatches_of(instructions):
            finished = []
            for size in sizes:
                may_stop = minibatches >= instructions.min_minibatches
                stopped = may_stop and not clock.fits(size, instructions.budget_seconds)
                if stopped:
                    break
                clock.tick(size)
                finished.append(size)
                minibatches += 1
            steps.append(tuple(finished))
            if stopped:
                break
        return cls(tuple(steps), clock.seconds, stopped)

    @property
    def sizes(self) -> list[int]:
        """Sizes of all mini-batches, in order."""
        return [size for step in self.steps for size in step]


@dataclass
class BatchedWorker:
    """A worker's round, as :func:`clients.training.train` takes it, and its place in its samples.

    ``most_samples`` of a step are computed at once; such workers read nothing ahead.
    """

    data: IndexedData
    indices: Tensor
    instructions: TrainInstructions
    forces: Forces
    schedule: Schedule
    most_samples: int = 0
    ahead: list[Batch] = field(default_factory=list)
    position: int = 0

    @property
    def pieces(self) -> list[list[int]]:
        """How many samples are computed at once, for every step."""
        return [[sum(piece) for piece in merged([*sizes], self.most_samples)] for sizes in self.schedule.steps]

    def read_ahead(self, device: str) -> None:
        """Read all mini-batches of the round, with the random numbers that they get when they are trained on."""
        told = self.instructions
        stream = (max(told.rank, 0), told.server_round)
        sizes = self.schedule.sizes
        pieces = torch.split(self.indices[: sum(sizes)], sizes)
        with seeded(int(rng(told.seed, "dropout", *stream).integers(2**31)), device):
            self.ahead = list(batches(self.data, pieces, partial(rng, told.seed, "augment", *stream)))
        self.ahead.reverse()

    def take(self, size: int) -> Tensor:
        """Return the indices of the next mini-batch."""
        self.position += size
        return self.indices[self.position - size : self.position]


def make_gradients(model: FlatModel, objective: Objective) -> Gradients:
    """Return a function that computes gradients of the summed losses, shape (W, P), and these losses, shape (W,).

    It takes rows (W, P), their mini-batches, stacked, and the number of samples of each. It raises whatever the loss or
    `vmap` raises.
    """
    whole = _Whole(model.module, objective, model.device)

    def loss(row: Tensor, batch: Batch, samples: int) -> Tensor:
        parameters = {f"module.{name}": value for name, value in model.named(row).items()}
        found: Tensor = functional_call(whole, parameters, (batch, samples))
        return found

    batched = vmap(loss, in_dims=(0, 0, None))

    def gradients(rows: Tensor, batch: Batch, samples: int) -> tuple[Tensor, Tensor]:
        # No loss depends on another's row, so this is the gradient of each; torch.func.grad loads torch's compiler.
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            losses = batched(rows, batch, samples)
            (found,) = torch.autograd.grad(losses.sum(), rows)
        return found, losses.detach()

    return gradients


class _Whole(nn.Module):
    """The loss as a module, so that the parameters of the model in it can be replaced."""

    def __init__(self, module: nn.Module, objective: Objective, device: str) -> None:
        super().__init__()
        self.module, self._objective, self._device = module, objective, device

    def forward(self, batch: Batch, samples: int) -> Tensor:
        return self._objective.value(self.module, batch, samples, self._device).squeeze()


def train_together(
    rows: Tensor,
    velocity: Tensor | None,
    workers: Sequence[BatchedWorker],
    gradients: Gradients,
    device: str,
    max_grad_norm: float | None = None,
) -> list[LocalUpdate]:
    """Run the local steps of several workers' rounds by SGD, as :func:`clients.training.train` does one by one.

    Parameters
    ----------
    rows : tensor, shape (W, P)
        Models, updated in place.
    velocity : tensor, shape (W, P), optional
        Momentum, updated in place; 0 where there is none yet. Required if the instructions have a momentum.
    workers : sequence of BatchedWorker, length W
        Their hyper-parameters, and which forces they have, are equal; schedules, batch sizes and shards need not be.
    gradients : callable
        Of :func:`make_gradients`.
    device : str
        Compute device.
    max_grad_norm : float, optional
        Upper bound on the norm of a step's gradient.

    Returns
    -------
    list of LocalUpdate
        In the order of the workers.
    """
    steps = _Steps(rows, velocity, workers, max_grad_norm)
    losses = torch.zeros(len(workers), dtype=torch.float64, device=rows.device)
    pieces = [worker.pieces for worker in workers]
    told = workers[0].instructions
    for number in range(max(*map(len, pieces), told.local_steps if told.remembers else 0)):
        now = [of_steps[number] if number < len(of_steps) else None for of_steps in pieces]
        for piece in range(max(len(sizes or ()) for sizes in now)):
            sizes_now = [sizes[piece] if sizes and piece < len(sizes) else 0 for sizes in now]
            for size, chosen in _of_same_size(sizes_now):
                batch = _read([workers[i] for i in chosen], size, device)
                where = _where(chosen, rows.device)
                found, of_pieces = gradients(rows[where], batch, size)
                steps.add(where, found, first=piece == 0)
                losses[where] += of_pieces.double()
        steps.take([None if sizes is None else sum(sizes) for sizes in now])
    return [_update(worker, total) for worker, total in zip(workers, losses.tolist(), strict=True)]


class _Steps:
    """The steps of :class:`clients.optimizers.Steps` with SGD, row by row."""

    def __init__(
        self, rows: Tensor, velocity: Tensor | None, workers: Sequence[BatchedWorker], max_grad_norm: float | None
    ) -> None:
        self._rows, self._velocity, self._max_grad_norm = rows, velocity, max_grad_norm
        self._sums = torch.zeros_like(rows)
        self._told = workers[0].instructions
        forces = [worker.forces for worker in workers]
        self._anchor, self._direction = (_stacked([getattr(f, n) for f in forces]) for n in ("anchor", "direction"))
        self._correction, self._memory = (_stacked([getattr(f, n) for f in forces]) for n in ("correction", "memory"))
        self._remembers = forces[0].remembers
        self._fills_in = [f.memory is not None for f in forces]
        if self._remembers and self._memory is None:
            self._finished, self._batches = torch.zeros_like(rows), torch.zeros(len(rows), 1, device=rows.device)
        self._strength = self._column([f.anchor_strength for f in forces])
        self._batch_sizes = [worker.instructions.batch_size for worker in workers]

    def add(self, where: Rows, found: Tensor, *, first: bool) -> None:
        """Add gradients to the sums of the current step, which begins with the first."""
        if first and len(found) == len(self._sums):
            self._sums = found
        elif first:
            self._sums[where] = found
        elif isinstance(where, slice):
            self._sums[where].add_(found)
        else:
            self._sums.index_add_(0, where, found)

    def take(self, samples: list[int | None]) -> None:
        """Take a step with the sums over ``samples`` each; none with 0 or None, unless it is filled in."""
        for run in _runs([i for i, done in enumerate(samples) if done or self._fills_in[i]]):
            finished = [samples[i] or 0 for i in range(run.start, run.stop)]
            for i, done in enumerate(finished, run.start):
                if not done:
                    self._sums[i].zero_()
                elif self._remembers:
                    self._fills_in[i] = True
            sizes = self._batch_sizes[run]
            share = self._column([done / size for done, size in zip(finished, sizes, strict=True)])
            self._take(run, self._column(sizes), share)

    def _take(self, run: slice, batch_sizes: Tensor, share: Tensor) -> None:
        rows, direction = self._rows[run], self._sums[run].div_(batch_sizes)
        if self._max_grad_norm is not None:
            norm = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
            direction.mul_((self._max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        if self._remembers and self._memory is not None:
            direction.add_(self._memory[run] * (1.0 - share))
        elif self._remembers:
            self._finished[run] += direction
            self._batches[run] += share
            direction.add_(self._finished[run] * ((1.0 - share) / self._batches[run]))
        if decay := self._told.weight_decay:
            direction.add_(rows if self._correction is None else rows * share, alpha=decay)
        if self._anchor is not None:
            direction.add_((rows - self._anchor[run]) * self._strength[run])
        if self._direction is not None:
            direction.add_(self._direction[run])
        if self._correction is not None:
            direction.add_(self._correction[run] * share)
        if self._told.momentum and self._velocity is not None:
            direction = self._velocity[run].mul_(self._told.momentum).add_(direction)
        rows.add_(direction, alpha=-self._told.learning_rate)

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._rows.device).unsqueeze(1)


def _read(workers: Sequence[BatchedWorker], size: int, device: str) -> Batch:
    """Return the next mini-batches of the workers, stacked: read at once where they lie in the same place."""
    if workers[0].ahead:
        found = stack([worker.ahead.pop() for worker in workers])
    else:
        indices = torch.cat([worker.take(size) for worker in workers])
        unused = partial(rng, 0, "augment")
        flat = next(batches(workers[0].data, [indices], unused))
        found = map_tensors(lambda value: value.view(len(workers), size, *value.shape[1:]), flat)
    return map_tensors(lambda value: value.to(device), found)


def _update(worker: BatchedWorker, loss_sum: float) -> LocalUpdate:
    schedule, sizes = worker.schedule, worker.schedule.sizes
    budget = worker.instructions.budget_seconds
    return LocalUpdate.make(sum(sizes), len(sizes), loss_sum, schedule.seconds, budget, schedule.stopped)


def _of_same_size(sizes: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Yield each size but 0 with the workers that have it, in order."""
    chosen: dict[int, list[int]] = defaultdict(list)
    for i, size in enumerate(sizes):
        if size:
            chosen[size].append(i)
    yield from chosen.items()


def _where(chosen: list[int], device: torch.device) -> Rows:
    """Return an index of these rows, a slice if they are neighbours: it does not copy them."""
    first, last = chosen[0], chosen[-1]
    return slice(first, last + 1) if last - first + 1 == len(chosen) else torch.tensor(chosen, device=device)


def _runs(chosen: Sequence[int]) -> Iterator[slice]:
    """Yield slices of neighbouring rows that cover the chosen ones."""
    start = 0
    for end in range(1, len(chosen) + 1):
        if end == len(chosen) or chosen[end] != chosen[end - 1] + 1:
            yield slice(chosen[start], chosen[end - 1] + 1)
            start = end


def _stacked(vectors: Sequence[Tensor | None]) -> Tensor | None:
    return None if vectors[0] is None else torch.stack([vector for vector in vectors if vector is not None])
