"""Which workers of a process are trained in one batched computation, how many at a time, and what is left to the loop.

The choice depends on the messages of a round and the model alone, never on measured times or free memory: a run with
the same seed gives the same bits, also if it is resumed.
"""

import math
from collections.abc import Iterator, Sequence
from logging import INFO
from typing import TYPE_CHECKING, Any, Literal

import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.supercore import log

from echelon.protocol.bundles import FEWEST_WORKERS, MOST_MODEL_BYTES
from echelon.protocol.messages import ARRAYS, record

from .batched import BatchedWorker, Schedule, make_gradients, train_together
from .cost import MOST_KEPT_BYTES
from .jobs import Job
from .optimizers import MOMENTUM_BUFFER, State
from .training import minibatches_of

if TYPE_CHECKING:
    from .worker import Worker

Batched = bool | Literal["auto"]

# Of the vectors of the workers that are trained at once; other devices have room for more, also of what is kept.
_VECTOR_BYTES = 1 << 26
_MORE_ROOM = 16
_VECTORS_PER_WORKER = 4

Outcome = RecordDict | Exception


class Together:
    """Trains the workers of a process together where that is possible and, with ``auto``, faster.

    Parameters
    ----------
    worker : Worker
        Of this process.
    mode : bool or "auto"
        True batches whatever can be batched.

    Attributes
    ----------
    refusal : str
        Why the loop trains, if it does.
    """

    def __init__(self, worker: "Worker", mode: Batched) -> None:
        self._worker, self._auto = worker, mode == "auto"
        self._on_cpu = worker.device == "cpu"
        self._room = 1 if self._on_cpu else _MORE_ROOM
        self._vector_bytes = worker.model.parameters.nbytes
        self._gradients = make_gradients(worker.model, worker.objective)
        self.refusal = ""
        if not worker.optimizer.is_sgd:
            self._refuse(f"only the steps of sgd are batched, not those of {worker.optimizer.name}")
        elif buffer := next((name for name, _ in worker.model.module.named_buffers()), None):
            self._refuse(f"the model has buffers, which a step may change: {buffer}")

    def at_once(self, count: int) -> int:
        """Return how many of ``count`` messages to take at once: equal parts whose vectors fit ``_VECTOR_BYTES``."""
        limit = _limit(self._room * _VECTOR_BYTES, _VECTORS_PER_WORKER * self._vector_bytes)
        if self._auto and limit < FEWEST_WORKERS:
            self._refuse(f"the vectors of only {limit} workers fit the memory that is set aside for them")
        if self.refusal:
            return 1
        return math.ceil(count / math.ceil(count / limit))

    def train(self, requests: Sequence[tuple[int, RecordDict]]) -> list[Outcome]:
        """Return the replies to (rank, content of a train message), or what went wrong with one, in order."""
        outcomes: list[Outcome] = []
        groups: dict[Any, list[tuple[int, Job]]] = {}
        for place, (rank, content) in enumerate(requests):
            try:
                made = self._worker.job(rank, content)
            except Exception as error:  # the engine reports it as the worker's
                made = error  # type: ignore[assignment]
            outcomes.append(made)  # type: ignore[arg-type]
            if isinstance(made, Job):
                groups.setdefault(_kind(made), []).append((place, made))
        for group in groups.values():
            for (place, _), outcome in zip(group, self._outcomes([job for _, job in group]), strict=True):
                outcomes[place] = outcome
        return outcomes

    def _outcomes(self, jobs: list[Job]) -> Iterator[Outcome]:
        """Yield the outcomes of jobs that can be trained together, in order."""
        try:
            size = self._size(jobs)
        except Exception as error:
            yield from self._after(error, jobs)
            return
        for start in range(0, len(jobs), size):
            yield from self._batch(jobs[start : start + size]) if size > 1 else [self._loop(jobs[start])]

    def _batch(self, jobs: list[Job]) -> list[Outcome]:
        try:
            return [*self._train(jobs)]
        except Exception as error:
            return self._after(error, jobs)

    def _after(self, error: Exception, jobs: list[Job]) -> list[Outcome]:
        """Train by the loop what could not be batched; if it raises as well, the error is a worker's own."""
        outcomes = [self._loop(job) for job in jobs]
        if not any(isinstance(outcome, Exception) for outcome in outcomes):
            self._refuse(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return outcomes

    def _loop(self, job: Job) -> Outcome:
        try:
            return self._worker.finish(job)
        except Exception as error:
            return error

    def _size(self, jobs: list[Job]) -> int:
        """Return how many of these jobs to train in one computation; 1 for the loop."""
        if not jobs[0].simulated:
            self._refuse("real time measures every worker by itself")
        if self.refusal or (self._auto and len(jobs) < FEWEST_WORKERS):
            return 1
        pieces = [size for sizes in minibatches_of(jobs[0].instructions) for size in sizes]
        cost = self._worker.merging.cost(jobs[0], pieces[0])
        read_ahead = 0 if _source(jobs) is not None else len(pieces) * cost.batch_bytes
        limit = _limit(self._room * MOST_KEPT_BYTES, cost.kept_bytes + read_ahead)
        if cost.draws:
            self._refuse("the model or the loss draws random numbers, as dropout does")
        elif self._auto and self._on_cpu and (needed := cost.kept_bytes + self._vector_bytes) > MOST_MODEL_BYTES:
            self._refuse(f"a mini-batch works on {needed / 1e6:.1f} MB, which the loop does as fast")
        return 1 if self.refusal else math.ceil(len(jobs) / math.ceil(len(jobs) / limit))

    def _train(self, jobs: list[Job]) -> Iterator[RecordDict]:
        """Train in one computation; yield the replies in order."""
        worker = self._worker
        schedules = [Schedule.make(job.instructions, worker.clock(job)) for job in jobs]
        order = sorted(range(len(jobs)), key=lambda i: schedules[i].steps, reverse=True)  # neighbours stop alike
        at_once = _source(jobs) is not None
        alike = len({schedule.steps for schedule in schedules}) == 1  # else pieces of many sizes would share no `vmap`
        most = worker.merging.most_samples(jobs[0], len(jobs)) if at_once and alike else 0
        model = worker.model
        rows = torch.empty(len(jobs), model.parameters.numel(), device=worker.device)
        velocity = torch.zeros_like(rows) if jobs[0].instructions.momentum else None
        states: list[State] = []
        members = []
        for row, i in enumerate(order):
            saved, forces = worker.load(jobs[i])
            rows[row] = model.parameters
            if velocity is not None and MOMENTUM_BUFFER in saved:
                velocity[row] = saved[MOMENTUM_BUFFER]
            states.append(saved)
            told = jobs[i].instructions
            members.append(BatchedWorker(jobs[i].data, jobs[i].indices, told, forces, schedules[i], most))
            if not at_once:
                members[-1].read_ahead(worker.device)
        model.module.train()
        bound = worker.optimizer.max_grad_norm
        updates = train_together(rows, velocity, members, self._gradients, worker.device, bound)
        place = {i: row for row, i in enumerate(order)}
        for i, job in enumerate(jobs):
            row = place[i]
            model.parameters.copy_(rows[row])
            state = states[row]
            moved = updates[row].samples or members[row].forces.memory is not None
            if velocity is not None and (moved or MOMENTUM_BUFFER in state):
                state = {**state, MOMENTUM_BUFFER: velocity[row]}
            yield worker.reply(job, updates[row], state)

    def _refuse(self, reason: str) -> None:
        """Train by the loop from now on, and say why, once."""
        if not self.refusal:
            self.refusal = reason
            log(INFO, "Workers are trained one after the other: %s", reason)


def _limit(total: int, each: int) -> int:
    """Return how many workers' shares fit, at least one."""
    return max(total // max(each, 1), 1)


def _kind(job: Job) -> Any:
    """Return what jobs that are trained together must have in common."""
    told, content = job.instructions, job.content
    arrays = tuple(record(content, ARRAYS, ArrayRecord))
    vectors = tuple(sorted(key for key, value in content.items() if isinstance(value, ArrayRecord)))
    return arrays, vectors, told.learning_rate, told.momentum, told.weight_decay, told.remembers, job.simulated


def _source(jobs: Sequence[Job]) -> Any:
    """Return where the data of all jobs lies, to be read at once; None if that is not one place."""
    sources = {getattr(job.data, "pure_source", None) for job in jobs}
    return sources.pop() if len(sources) == 1 else None
