"""The worker: holds the data and model of one process, and answers requests."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import MetricRecord, RecordDict
from torch import nn

from echelon.algorithms.partial import Cursor, upcoming
from echelon.protocol.messages import (
    ANCHOR,
    ARRAYS,
    CONFIG,
    METRICS,
    MOMENTUM,
    SHARD,
    RosterEntry,
    TrainInstructions,
    TrainReport,
    as_ndarray,
)

from .clocks import Clock, WallClock
from .data import IndexedData, as_indexed
from .fleet import Fleet
from .model import FlatModel
from .training import Loss, cross_entropy, train

# Mini-batches for calibration on real devices; the first one warms up caches and is not counted.
_CALIBRATION_MINIBATCHES = 4
_EVALUATION_BATCH = 512


class Worker:
    """One model and the data of every rank seen in this process; requests change no other state.

    Parameters
    ----------
    build_model : callable
        () -> torch.nn.Module.
    device : {"auto", "cpu", "cuda"}
        Compute device.
    fleet : Fleet, optional
        Simulated devices; by default the wall clock measures.
    loss : callable
        (outputs, labels) -> summed loss.
    speed_limit : float
        Maximum samples per second under the wall clock, to emulate unequal devices on one machine.
    """

    def __init__(
        self,
        build_model: Callable[[], nn.Module],
        *,
        device: str = "auto",
        fleet: Fleet | None = None,
        loss: Loss = cross_entropy,
        speed_limit: float = math.inf,
    ) -> None:
        self._data: dict[int, IndexedData] = {}
        self.device = _resolve_device(device)
        self.model = FlatModel(build_model(), self.device)
        self.fleet = fleet
        self.loss = loss
        self.speed_limit = speed_limit

    def hold(self, rank: int, load: Callable[[], Any]) -> None:
        """Load the data of a worker, once per process; required before any request for its rank."""
        if rank not in self._data:
            self._data[rank] = as_indexed(load())

    def roster(self, rank: int, instructions: TrainInstructions, packs: bool = False) -> RecordDict:
        """Answer the handshake: rank, samples and speed (known in simulation, measured on a real device)."""
        samples = len(self._data[rank])
        fleet = self._simulated(instructions)
        if fleet is None:
            per_sample = self._calibrate(rank, instructions)
            per_minibatch = per_sample * instructions.minibatch_size
            entry = RosterEntry(rank, samples, 1 / per_sample, per_minibatch, device=self.device, packs=packs)
            return entry.to_content()
        device = fleet.device(rank)
        per_minibatch = instructions.minibatch_size / device.samples_per_second
        return RosterEntry(
            rank,
            samples,
            device.samples_per_second,
            per_minibatch,
            device.latency_seconds,
            device.bandwidth,
            self.device,
            packs,
        ).to_content()

    def train(self, rank: int, content: RecordDict) -> RecordDict:
        """Run the local steps of a round on the received row; return the new row and the report."""
        instructions = TrainInstructions.from_config(content.config_records[CONFIG])
        data = self._data[rank]
        shard = _shard(content, len(data))
        fleet = self._simulated(instructions)
        if fleet is not None:
            offline = fleet.seconds_away(instructions.seed, rank, instructions.server_round, instructions.run_seconds)
            if offline > 0:
                return RecordDict({METRICS: TrainReport(len(shard), away_seconds=offline).to_metrics()})
        self.model.load(content.array_records[ARRAYS])
        velocity = self._vector(content, MOMENTUM)
        if velocity is None and instructions.momentum:
            velocity = torch.zeros_like(self.model.parameters)
        cursor = Cursor(instructions.epoch, instructions.position)
        count = instructions.local_steps * instructions.batch_size
        positions = upcoming(instructions.seed, rank, cursor, len(shard), count)
        update = train(
            self.model,
            data,
            torch.from_numpy(shard[positions]),
            instructions,
            self._clock(rank, instructions),
            velocity=velocity,
            anchor=self._vector(content, ANCHOR),
            loss=self.loss,
        )
        report = TrainReport(
            len(shard), update.samples, update.minibatches, update.train_loss, update.seconds, update.dropped_seconds
        )
        reply = RecordDict({ARRAYS: self.model.arrays(), METRICS: report.to_metrics()})
        if MOMENTUM in content and velocity is not None:
            reply[MOMENTUM] = self.model.unflatten(velocity)
        return reply

    @torch.inference_mode()
    def evaluate(self, rank: int, content: RecordDict) -> RecordDict:
        """Return mean loss and accuracy of the received model on the worker's shard."""
        data = self._data[rank]
        shard = torch.tensor(_shard(content, len(data)))
        self.model.load(content.array_records[ARRAYS])
        self.model.module.eval()
        unused = np.random.default_rng(0)
        loss, correct = 0.0, 0
        for indices in torch.split(shard, _EVALUATION_BATCH):
            x, y = data.batch(indices, unused)
            outputs, labels = self.model.module(x.to(self.device)), y.to(self.device)
            loss += self.loss(outputs, labels).item()
            correct += int((outputs.argmax(-1) == labels).sum())
        count = len(shard)
        metrics: dict[str, int | float | list[int] | list[float]] = {
            "num-examples": count,
            "loss": loss / count,
            "accuracy": correct / count,
        }
        return RecordDict({METRICS: MetricRecord(metrics)})

    def _simulated(self, instructions: TrainInstructions) -> Fleet | None:
        return None if instructions.wall_clock else self.fleet

    def _clock(self, rank: int, instructions: TrainInstructions) -> Clock:
        fleet = self._simulated(instructions)
        if fleet is None:
            return WallClock(instructions.seconds_per_minibatch / instructions.minibatch_size, self.speed_limit)
        return fleet.clock(instructions.seed, rank, instructions.server_round)

    def _vector(self, content: RecordDict, key: str) -> torch.Tensor | None:
        return self.model.flatten(content.array_records[key]) if key in content else None

    def _calibrate(self, rank: int, instructions: TrainInstructions) -> float:
        """Measure seconds per sample on a few mini-batches."""
        data, size = self._data[rank], instructions.minibatch_size
        indices = torch.arange(size * _CALIBRATION_MINIBATCHES) % len(data)
        measure = partial(train, self.model, data, loss=self.loss)
        probe = TrainInstructions(batch_size=size, minibatch_size=size, learning_rate=0.0)
        measure(indices[:size], probe, WallClock())
        probe = TrainInstructions(batch_size=len(indices) - size, minibatch_size=size, learning_rate=0.0)
        return measure(indices[size:], probe, WallClock(speed_limit=self.speed_limit)).seconds / probe.batch_size


def _shard(content: RecordDict, pool: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the samples that the server assigned to this worker; by default all of its data."""
    if SHARD not in content:
        return np.arange(pool)
    indices = as_ndarray(content.array_records[SHARD]["indices"])
    if indices.dtype != np.int64 or indices.ndim != 1 or not indices.size:
        raise ValueError(f"the shard must be a non-empty list of int64 indices; got {indices.dtype} {indices.shape}")
    outside = indices[(indices < 0) | (indices >= pool)]
    if outside.size:
        raise ValueError(f"shard indices must lie in 0..{pool - 1}, the range of this worker's data; got {outside[0]}")
    return indices


def _resolve_device(device: str) -> str:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device=cuda needs a CUDA device; none is visible here, use device=cpu or device=auto")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return device
