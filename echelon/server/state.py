"""All that a run is on the server: what a checkpoint holds and a resumed run starts from."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from echelon.algorithms.partial import Cursor


@dataclass
class ServerState:
    """Server state of a run of N workers with rows of P values.

    Attributes
    ----------
    rows : float32 ndarray, shape (N, P)
        Every worker's model: parameters, then buffers.
    exact : uint8 ndarray, shape (N, B)
        Bytes of the buffers that have no place in a row.
    momentum : float32 ndarray, shape (N, number of parameters), or None
        Momentum buffers, where the workers use momentum.
    optimizer : float32 ndarray, shape (N, S)
        State of other optimisers; NaN where a worker has not taken a step yet.
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
    virtual_seconds, wall_seconds : float
        The run's time axes.
    samples : int
        Samples processed by all workers.
    extras : dict of str to ndarray
        State of a particular strategy.
    """

    rows: NDArray[np.float32]
    exact: NDArray[np.uint8]
    momentum: NDArray[np.float32] | None
    optimizer: NDArray[np.float32]
    cursors: NDArray[np.int64]
    left_in_batch: NDArray[np.int64]
    seconds_per_minibatch: NDArray[np.float64]
    mean_samples: NDArray[np.float64]
    rounds_seen: NDArray[np.int64]
    losses: NDArray[np.float64]
    round: int = 0
    virtual_seconds: float = 0.0
    wall_seconds: float = 0.0
    samples: int = 0
    extras: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    @classmethod
    def initial(
        cls,
        row: NDArray[np.float32],
        num_workers: int,
        num_momentum: int,
        exact: NDArray[np.uint8] | None = None,
        optimizer_size: int = 0,
    ) -> "ServerState":
        """Return the state before the first round: every worker starts from ``row`` and ``exact``."""
        return cls(
            rows=np.tile(row, (num_workers, 1)),
            exact=np.tile(np.empty(0, dtype=np.uint8) if exact is None else exact, (num_workers, 1)),
            momentum=np.zeros((num_workers, num_momentum), dtype=np.float32) if num_momentum else None,
            optimizer=np.full((num_workers, optimizer_size), np.nan, dtype=np.float32),
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
