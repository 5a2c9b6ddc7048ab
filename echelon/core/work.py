"""How much a worker computes before it must synchronise, and what its partial result is worth."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from echelon.algorithms.partial import Estimator, Trigger, budget, scales

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class WorkPolicy(Protocol):
    """One end of the work axis; the client, which obeys a budget, is the other."""

    @property
    def local_steps(self) -> int:
        """Steps between synchronisations."""

    @property
    def batch_size(self) -> int:
        """Samples of a step (of the fastest worker's, where batches are proportional to speed)."""

    @property
    def minibatch_size(self) -> int:
        """Samples whose gradient is computed at once."""

    @property
    def min_minibatches(self) -> int:
        """Mini-batches that a worker finishes whatever the budget."""

    @property
    def estimator(self) -> str:
        """What a partial result is worth."""

    @property
    def ema(self) -> float:
        """Weight of the newest round in the estimate of a worker's speed."""

    def target_samples(self, batch_sizes: Ints, left_in_batch: Ints) -> Ints:
        """Return the samples that each worker is to process this round, shape (N,)."""

    def budget(self, seconds_per_minibatch: Floats, target_samples: Ints) -> float:
        """Return the seconds of computing that the round allows."""

    def factors(self, samples: Ints, full_samples: Ints, expected: Floats) -> Floats:
        """Return the factors k_i of ``y_i <- x_i + k_i (y_i - x_i)`` for n workers that processed ``samples``.

        The workers applied the ``nominal`` rule, so the factor is the estimator's weight over the nominal one.
        """


@dataclass(frozen=True)
class FullBatch:
    """Blocking work: every worker finishes ``local_steps`` batches of ``batch_size`` samples; all wait for the slowest.

    Parameters
    ----------
    local_steps : int
        Steps F between synchronisations, at least 1.
    batch_size : int
        Samples B of a step.
    minibatch_size : int
        Samples b whose gradient is computed at once, at most B.
    ema : float
        Weight in (0, 1] of the newest round in the estimate of a worker's speed.
    """

    local_steps: int = 1
    batch_size: int = 256
    minibatch_size: int = 32
    ema: float = 0.5

    min_minibatches = 0
    estimator = "nominal"

    def __post_init__(self) -> None:
        _check_sizes(self.local_steps, self.batch_size, self.minibatch_size, self.ema)

    def target_samples(self, batch_sizes: Ints, left_in_batch: Ints) -> Ints:
        """Return F batches for every worker."""
        return self.local_steps * batch_sizes

    def budget(self, seconds_per_minibatch: Floats, target_samples: Ints) -> float:
        """Return infinity: every worker finishes."""
        return float("inf")

    def factors(self, samples: Ints, full_samples: Ints, expected: Floats) -> Floats:
        """Return ones: nothing is partial."""
        return np.ones(len(samples))


@dataclass(frozen=True)
class NonBlocking:
    """Non-blocking work (He & Dube, arXiv 2211.00889): when the trigger fires, all submit what they have finished.

    Parameters
    ----------
    local_steps, batch_size, minibatch_size, ema
        As in :class:`FullBatch`.
    trigger : {"fastest", "quorum", "deadline"}
        Who ends the round.
    quorum : float
        Fraction in (0, 1] of the workers, for ``trigger="quorum"``.
    deadline : float, optional
        Seconds of computing, for ``trigger="deadline"``.
    estimator : {"nominal", "finished", "per_worker", "expected", "memory"}
        See :func:`echelon.algorithms.partial.combine`.
    min_minibatches : int
        Mini-batches that even the slowest worker finishes; 0 may starve it.
    target : {"full", "rest"}
        ``full``: each round aims at a whole batch. ``rest``: a worker first finishes the rest of its old one, as in
        the authors' project report of 2022; a leftover of one mini-batch then ends the round for all workers.
    """

    local_steps: int = 1
    batch_size: int = 256
    minibatch_size: int = 32
    trigger: Trigger = "fastest"
    quorum: float = 0.5
    deadline: float | None = None
    estimator: Estimator = "nominal"
    min_minibatches: int = 1
    target: Literal["full", "rest"] = "full"
    ema: float = 0.5

    def __post_init__(self) -> None:
        _check_sizes(self.local_steps, self.batch_size, self.minibatch_size, self.ema)
        budget([], [], self.trigger, quorum=self.quorum, deadline=self.deadline)
        scales([1], 1, self.estimator, [1.0])
        if self.min_minibatches < 0:
            raise ValueError(f"work.min_minibatches must be at least 0; got {self.min_minibatches}")
        if self.target not in ("full", "rest"):
            raise ValueError(f"work.target must be full or rest; got {self.target}")
        if self.target == "rest" and self.local_steps > 1:
            raise ValueError(f"work.target=rest needs local_steps=1; got {self.local_steps}")

    def target_samples(self, batch_sizes: Ints, left_in_batch: Ints) -> Ints:
        """Return F batches, or what is left of the current one."""
        if self.target == "rest":
            left: Ints = np.where(left_in_batch > 0, left_in_batch, batch_sizes)
            return left
        return self.local_steps * batch_sizes

    def budget(self, seconds_per_minibatch: Floats, target_samples: Ints) -> float:
        """Return the predicted time at which the trigger fires."""
        remaining = target_samples / self.minibatch_size
        return budget(seconds_per_minibatch, remaining, self.trigger, quorum=self.quorum, deadline=self.deadline)

    def factors(self, samples: Ints, full_samples: Ints, expected: Floats) -> Floats:
        """Return the estimator's weights relative to the nominal ones."""
        return scales(samples, full_samples, self.estimator, expected) / scales(samples, full_samples)


def batch_sizes(batch_size: int, num_workers: int, ratios: Floats | None) -> Ints:
    """Return each worker's batch: equal, or in proportion to capability ratios (B r_i / max r, at least 1)."""
    if ratios is None:
        return np.full(num_workers, batch_size, dtype=np.int64)
    sizes: Ints = np.maximum(np.rint(batch_size * ratios / ratios.max()), 1).astype(np.int64)
    return sizes


def _check_sizes(local_steps: int, batch_size: int, minibatch_size: int, ema: float) -> None:
    if local_steps < 1:
        raise ValueError(f"local_steps must be at least 1; got {local_steps}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if minibatch_size < 1:
        raise ValueError(f"minibatch_size must be at least 1; got {minibatch_size}")
    if minibatch_size > batch_size:
        raise ValueError(f"minibatch_size must be at most batch_size={batch_size}; got {minibatch_size}")
    if not 0 < ema <= 1:
        raise ValueError(f"work.ema must lie in (0, 1]; got {ema}")
