"""The numbers that a host remembers of its workers from round to round; small, and the same on every host."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from echelon.algorithms.partial import Cursor
from echelon.core.work import WorkPolicy


@dataclass(kw_only=True)
class Tally:
    """What N workers have done so far.

    Attributes
    ----------
    cursors : int64 ndarray, shape (N, 2)
        (epoch, position) of every worker.
    left_in_batch : int64 ndarray, shape (N,)
        Samples left of each worker's current batch (``target=rest``).
    seconds_per_minibatch : float64 ndarray, shape (N,)
        Running estimates; NaN while unknown.
    mean_samples : float64 ndarray, shape (N,)
        Running mean of the samples that a worker processed per round, over ``rounds_seen`` rounds (N,).
    losses : float64 ndarray, shape (N,)
        Leader signal of the latest round in which the worker took part; NaN before.
    round : int
        Rounds finished.
    samples : int
        Samples processed by all workers.
    """

    cursors: NDArray[np.int64]
    left_in_batch: NDArray[np.int64]
    seconds_per_minibatch: NDArray[np.float64]
    mean_samples: NDArray[np.float64]
    rounds_seen: NDArray[np.int64]
    losses: NDArray[np.float64]
    round: int = 0
    samples: int = 0

    @classmethod
    def none(cls, num_workers: int) -> Self:
        """Return the tally before the first round."""
        return cls(
            cursors=np.zeros((num_workers, 2), dtype=np.int64),
            left_in_batch=np.zeros(num_workers, dtype=np.int64),
            seconds_per_minibatch=np.full(num_workers, np.nan),
            mean_samples=np.zeros(num_workers),
            rounds_seen=np.zeros(num_workers, dtype=np.int64),
            losses=np.full(num_workers, np.nan),
        )

    def advance(self, rank: int, samples: int, shard_size: int) -> None:
        """Move a worker's cursor over the samples that it has processed."""
        epoch, position = self.cursors[rank].tolist()
        cursor = Cursor(epoch, position).advance(samples, shard_size)
        self.cursors[rank] = cursor.epoch, cursor.position

    def learn_speed(self, rank: int, seconds_per_minibatch: float, weight: float) -> None:
        """Update the estimate of a worker's speed (exponential moving average; the first value counts in full)."""
        old = self.seconds_per_minibatch[rank]
        new = seconds_per_minibatch if np.isnan(old) else old + weight * (seconds_per_minibatch - old)
        self.seconds_per_minibatch[rank] = new

    def count_samples(self, rank: int, samples: int) -> None:
        """Update the running mean of a worker's samples per round."""
        self.rounds_seen[rank] += 1
        self.mean_samples[rank] += (samples - self.mean_samples[rank]) / self.rounds_seen[rank]
        self.samples += samples

    def note(
        self, rank: int, *, samples: int, seconds: float, target_samples: int, shard_size: int, work: WorkPolicy
    ) -> None:
        """Note what a worker did in a round.

        Parameters
        ----------
        rank : int
            The worker.
        samples, target_samples : int
            Samples that it has processed, and that it was to process.
        seconds : float
            Its computing time; 0 if it does not measure.
        shard_size : int
            Samples that it holds; 0 where that is unknown.
        work : WorkPolicy
            Of the run.
        """
        self.advance(rank, samples, shard_size)
        self.left_in_batch[rank] = target_samples - samples
        self.count_samples(rank, samples)
        if samples and seconds > 0:
            self.learn_speed(rank, seconds * work.minibatch_size / samples, work.ema)
