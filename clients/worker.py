"""The worker: holds the data and model of one process, and answers requests."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import nn

from echelon.algorithms.partial import Cursor, upcoming
from echelon.core.clocks import Clock, WallClock
from echelon.core.layout import ModelParts
from echelon.protocol.messages import (
    ANCHOR,
    ARRAYS,
    CONFIG,
    CORRECTION,
    DIRECTION,
    INITIAL,
    MEMORY,
    METRICS,
    MOMENTUM,
    NUM_EXAMPLES,
    OPTIMIZER,
    RosterEntry,
    TrainInstructions,
    TrainReport,
    as_array,
    as_ndarray,
    record,
)
from echelon.protocol.wire import differences, lengthened

from .data import IndexedData, as_indexed, batches
from .devices import resolve
from .errors import UserCodeError, naming, of_worker
from .fleet import Fleet
from .forces import Forces
from .jobs import Job, shard_of
from .merging import Merging
from .model import FlatModel
from .objectives import Objective
from .optimizers import MOMENTUM_BUFFER, Optimizer, State
from .randomness import seeded
from .together import Batched, Together
from .training import LocalUpdate, train

# Mini-batches for calibration on real devices; the first one warms up caches and is not counted.
_CALIBRATION_MINIBATCHES = 4
_EVALUATION_BATCH = 512


class Worker:
    """One model and the data of every rank seen in this process; requests change no other state.

    Parameters
    ----------
    build_model : callable
        () -> torch.nn.Module.
    device : {"auto", "cpu", "cuda", "mps", "xpu"}
        Compute device.
    fleet : Fleet, optional
        Simulated devices; by default the wall clock measures.
    objective : Objective
        What to minimise and to report; by default the cross-entropy of (inputs, labels).
    optimizer : Optimizer
        Of the local steps; SGD by default.
    speed_limit : float
        Maximum samples per second under the wall clock, to emulate unequal devices on one machine.
    is_over : callable, optional
        Asked under the wall clock, before every mini-batch, whether an event has ended the round.
    merges : bool
        Whether mini-batches are computed at once where nothing can end the round between them.
    """

    def __init__(
        self,
        build_model: Callable[[], nn.Module],
        *,
        device: str = "auto",
        fleet: Fleet | None = None,
        objective: Objective | None = None,
        optimizer: Optimizer | None = None,
        speed_limit: float = math.inf,
        is_over: Callable[[], bool] = lambda: False,
        merges: bool = False,
    ) -> None:
        self._data: dict[int, IndexedData] = {}
        self.device = resolve(device)
        self.model = FlatModel(_module(build_model), self.device)
        self.fleet = fleet
        self.objective = objective or Objective()
        self.optimizer = optimizer or Optimizer()
        self._kept: dict[int, State] = {}
        self._together: Together | None = None
        self.merging = Merging(self, merges)
        self.speed_limit = speed_limit
        self._is_over = is_over

    def hold(self, rank: int, load: Callable[[], Any]) -> None:
        """Load the data of a worker, once per process; required before any request for its rank."""
        if rank not in self._data:
            with of_worker(rank):
                loaded = load()
                with naming("reading what load_data returns"):
                    data = as_indexed(loaded)
                    len(data)  # may be the user's own
                self._data[rank] = data

    def roster(self, rank: int, config: ConfigRecord, packs: bool = False) -> RecordDict:
        """Answer the handshake: rank, samples, speed (known in simulation, measured on a real device), and model.

        Raises
        ------
        ValueError
            If the server's initial arrays are those of another model.
        """
        instructions = TrainInstructions.from_config(config)
        entry = RosterEntry(
            rank, len(self._data[rank]), device=self.device, packs=packs, bf16=packs, parts=self._parts()
        )
        if INITIAL in config:
            initial: Any = config[INITIAL]
            self.model.check_names(initial)
            entry = replace(entry, buffers=self.model.buffers(leave_out=initial) or None)
        fleet = self._simulated(instructions)
        if fleet is not None:
            device = fleet.device(rank)
            speed = device.samples_per_second
            network = {"latency_seconds": device.latency_seconds, "bandwidth": device.bandwidth}
            entry = replace(entry, **network)  # type: ignore[arg-type]
        elif not entry.num_examples:
            return entry.to_content()  # nothing to measure with
        else:
            with of_worker(rank):
                speed = 1 / self._calibrate(rank, instructions)
        per_minibatch = instructions.minibatch_size / speed
        return replace(entry, samples_per_second=speed, seconds_per_minibatch=per_minibatch).to_content()

    def train(self, rank: int, content: RecordDict) -> RecordDict:
        """Run the local steps of a round on the received row; return the new row and the report."""
        job = self.job(rank, content)
        return self.finish(job) if isinstance(job, Job) else job

    def job(self, rank: int, content: RecordDict) -> Job | RecordDict:
        """Return what a message asks for, or the reply of a worker that has nothing to train on, or is offline."""
        instructions = TrainInstructions.from_config(record(content, CONFIG, ConfigRecord))
        data = self._data[rank]
        shard = shard_of(content, len(data))
        fleet = self._simulated(instructions)
        if fleet is not None:
            offline = fleet.seconds_away(instructions.seed, rank, instructions.server_round, instructions.run_seconds)
            if offline > 0:
                return RecordDict({METRICS: TrainReport(len(shard), away_seconds=offline).to_metrics()})
        short = lengthened(content, self.model.parameters.numel())
        content = content if short is None else short
        if not len(shard):
            self.model.load(record(content, ARRAYS, ArrayRecord))
            return self._returned(self._unchanged(content), content, bf16=short is not None)
        cursor = Cursor(instructions.epoch, instructions.position)
        count = instructions.local_steps * instructions.batch_size
        positions = upcoming(instructions.seed, rank, cursor, len(shard), count)
        indices, simulated, bf16 = torch.from_numpy(shard[positions]), fleet is not None, short is not None
        return Job(rank, content, instructions, data, indices, len(shard), simulated, bf16)

    def load(self, job: Job) -> tuple[State, Forces]:
        """Load the model of a job; return the optimiser's state from which it goes on, and what acts on its steps."""
        self.model.load(record(job.content, ARRAYS, ArrayRecord))
        return self._saved(job.rank, job.content), self._forces(job.content, job.instructions)

    def finish(self, job: Job) -> RecordDict:
        """Train; return the reply."""
        most = self.merging.most_samples(job)
        saved, forces = self.load(job)
        steps = self.optimizer.prepare(self.model, job.instructions, saved)
        clock = self.clock(job)
        options: dict[str, Any] = {"optimizer": steps, "forces": forces, "objective": self.objective}
        update = train(self.model, job.data, job.indices, job.instructions, clock, **options, most_samples=most)
        return self.reply(job, update, steps.state)

    def reply(self, job: Job, update: LocalUpdate, state: State) -> RecordDict:
        """Return the reply of a job whose new parameters are in the model."""
        numbers = (update.samples, update.minibatches, update.train_loss, update.seconds, update.dropped_seconds)
        report = TrainReport(job.shard_size, *numbers)
        reply = RecordDict({ARRAYS: self.model.arrays(), METRICS: report.to_metrics()})
        self._keep(job.rank, state, job.content, reply, job.instructions.keeps_optimizer)
        return self._returned(reply, job.content, bf16=job.bf16)

    def clock(self, job: Job) -> Clock:
        """Return the clock of a job: that of its simulated device, or the real one."""
        told = job.instructions
        if self.fleet is not None and job.simulated:
            return self.fleet.clock(told.seed, job.rank, told.server_round)
        return WallClock(told.seconds_per_minibatch / told.minibatch_size, self.speed_limit, self._is_over)

    def together(self, mode: Batched) -> Together:
        """Return what trains several of this process's workers in one computation."""
        if self._together is None:
            self._together = Together(self, mode)
        return self._together

    @torch.no_grad()
    def evaluate(self, rank: int, content: RecordDict) -> RecordDict:
        """Return the means of the metrics of the received model over the worker's shard.

        Raises
        ------
        ValueError
            If a metric is not one number.
        """
        data = self._data[rank]
        shard = torch.tensor(shard_of(content, len(data)))
        self.model.load(record(content, ARRAYS, ArrayRecord))
        self.model.module.eval()
        sums: dict[str, float] = {}
        with seeded(0, self.device):
            pieces = torch.split(shard, _EVALUATION_BATCH) if len(shard) else ()
            for indices, batch in zip(pieces, batches(data, pieces, partial(np.random.default_rng, 0)), strict=True):
                for name, value in self.objective.measure(self.model.module, batch, len(indices), self.device).items():
                    sums[name] = sums.get(name, 0.0) + value
        means = {name: value / len(shard) for name, value in sums.items()}
        return RecordDict({METRICS: MetricRecord({NUM_EXAMPLES: len(shard), **means})})

    def _parts(self) -> ModelParts:
        """Return what the model is made of, and which state of the optimiser travels with it."""
        travels, is_sgd = self.optimizer.state == "server", self.optimizer.is_sgd
        vectors, numbers = self.optimizer.slots if travels and not is_sgd else ((), ())
        momentum, name = travels and is_sgd, self.optimizer.name
        return replace(self.model.parts, momentum=momentum, vectors=vectors, numbers=numbers, optimizer=name)

    def _saved(self, rank: int, content: RecordDict) -> State:
        """Return the optimiser's state from which a round goes on."""
        if self.optimizer.state != "server":
            return self._kept.get(rank, {})
        saved: State = {}
        if MOMENTUM in content:
            saved[MOMENTUM_BUFFER] = self.model.flatten(record(content, MOMENTUM, ArrayRecord))
        for name, array in record(content, OPTIMIZER, ArrayRecord).items() if OPTIMIZER in content else ():
            value = torch.from_numpy(np.array(as_ndarray(array)))
            # A number of steps stays on the CPU, as torch leaves it.
            saved[name] = value.to(self.device) if value.ndim else value
        return saved

    def _keep(self, rank: int, state: State, content: RecordDict, reply: RecordDict, keeps: bool) -> None:
        """Put the optimiser's state where it is kept between rounds."""
        if self.optimizer.state == "worker":
            self._kept[rank] = {name: value.clone() for name, value in state.items()}
        if self.optimizer.state != "server":
            return
        if MOMENTUM in content and self.optimizer.is_sgd:
            momentum = state.get(MOMENTUM_BUFFER)
            reply[MOMENTUM] = (
                record(content, MOMENTUM, ArrayRecord) if momentum is None else self.model.unflatten(momentum)
            )
        elif keeps:
            vectors, numbers = self.optimizer.slots
            empty = dict.fromkeys(vectors, torch.zeros_like(self.model.parameters))
            empty |= dict.fromkeys(numbers, torch.zeros(()))
            whole = {name: state.get(name, value) for name, value in empty.items()}  # RMSprop may have no momentum
            reply[OPTIMIZER] = ArrayRecord({n: as_array(value.float().cpu().numpy()) for n, value in whole.items()})

    def _unchanged(self, content: RecordDict) -> RecordDict:
        """Return the reply of a worker without samples, which takes part in the averaging alone."""
        reply = RecordDict({ARRAYS: self.model.arrays(), METRICS: TrainReport(0).to_metrics()})
        if MOMENTUM in content:
            reply[MOMENTUM] = record(content, MOMENTUM, ArrayRecord)
        return reply

    def _returned(self, reply: RecordDict, content: RecordDict, *, bf16: bool) -> RecordDict:
        """Return a reply to a message as it travels."""
        return differences(reply, content, self.model.parameters.numel()) if bf16 else reply

    def _simulated(self, instructions: TrainInstructions) -> Fleet | None:
        return None if instructions.wall_clock else self.fleet

    def _forces(self, content: RecordDict, instructions: TrainInstructions) -> Forces:
        anchor = self._vector(content, ANCHOR)
        direction, correction = self._vector(content, DIRECTION), self._vector(content, CORRECTION)
        memory = self._vector(content, MEMORY)
        return Forces(anchor, instructions.anchor_strength, direction, correction, memory, instructions.remembers)

    def _vector(self, content: RecordDict, key: str) -> torch.Tensor | None:
        return self.model.flatten(record(content, key, ArrayRecord)) if key in content else None

    def _calibrate(self, rank: int, instructions: TrainInstructions) -> float:
        """Measure seconds per sample on a few mini-batches."""
        data, size = self._data[rank], instructions.minibatch_size
        indices = torch.arange(size * _CALIBRATION_MINIBATCHES) % len(data)
        measure = partial(train, self.model, data, objective=self.objective)
        probe = TrainInstructions(batch_size=size, minibatch_size=size, learning_rate=0.0)
        measure(indices[:size], probe, WallClock())
        probe = TrainInstructions(batch_size=len(indices) - size, minibatch_size=size, learning_rate=0.0)
        return measure(indices[size:], probe, WallClock(speed_limit=self.speed_limit)).seconds / probe.batch_size


def _module(build_model: Callable[[], nn.Module]) -> nn.Module:
    """Return the user's model."""
    with naming("build_model()"):
        module: Any = build_model()
    if not isinstance(module, nn.Module):
        raise UserCodeError(f"build_model must return a torch.nn.Module; got {type(module).__name__}")
    return module
