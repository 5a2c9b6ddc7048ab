"""The buffer of an asynchronous server: the updates that make one of its steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from echelon.protocol.messages import TrainReport
from echelon.server.replies import Reply

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Update:
    """A worker's update y - x of the model x that the server sent it ``staleness`` steps ago, and what it was asked."""

    rank: int
    reply: Reply
    staleness: int
    delta: NDArray[np.float32]
    target_minibatches: int


@dataclass
class Buffer:
    """Updates in arrival order; a worker may have several."""

    updates: list[Update] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of updates."""
        return len(self.updates)

    @property
    def ranks(self) -> list[int]:
        """Rank of the worker of every update."""
        return [update.rank for update in self.updates]

    @property
    def samples(self) -> NDArray[np.int64]:
        """Samples of every update."""
        return np.array([update.reply.report.samples for update in self.updates], dtype=np.int64)

    def mean_update(self, factors: Floats, staleness_exponent: float) -> Floats:
        """Return (1/K) sum_k factor_k (1 + tau_k)^-exponent delta_k, shape (number of parameters,)."""
        total = np.zeros(len(self.updates[0].delta))
        for factor, update in zip(factors, self.updates, strict=True):
            total += factor * (1 + update.staleness) ** -staleness_exponent * update.delta
        return total / len(self)

    def target_minibatches(self, num_workers: int) -> list[int]:
        """Return the mini-batches that each worker was to compute, over its updates."""
        targets = [0] * num_workers
        for update in self.updates:
            targets[update.rank] += update.target_minibatches
        return targets

    def replies(self) -> dict[int, Reply]:
        """Return every worker's replies as one, by rank: their sums, and the mean loss over all samples."""
        by_rank: dict[int, list[Reply]] = {rank: [] for rank in sorted(set(self.ranks))}
        for update in self.updates:
            by_rank[update.rank].append(update.reply)
        return {rank: _merge_replies(replies) for rank, replies in by_rank.items()}

    def staleness(self, num_workers: int) -> list[float | None]:
        """Return the mean staleness of each worker's updates; None where there is none."""
        found = [[update.staleness for update in self.updates if update.rank == rank] for rank in range(num_workers)]
        return [sum(values) / len(values) if values else None for values in found]


def _merge_replies(replies: Sequence[Reply]) -> Reply:
    reports = [reply.report for reply in replies]
    samples = sum(report.samples for report in reports)
    losses = sum(report.samples * report.train_loss for report in reports if report.samples)
    report = TrainReport(
        num_examples=reports[-1].num_examples,
        samples=samples,
        minibatches=sum(report.minibatches for report in reports),
        train_loss=losses / samples if samples else math.nan,
        seconds=sum(report.seconds for report in reports),
        dropped_seconds=sum(report.dropped_seconds for report in reports),
    )
    return Reply(report, num_bytes=sum(reply.num_bytes for reply in replies))
