"""Partial work (He & Dube, arXiv 2211.00889): budgets, shard cursors, and estimators for partial gradient sums."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from echelon.algorithms.seeds import rng

Trigger = Literal["fastest", "quorum", "deadline"]
Estimator = Literal["nominal", "finished", "per_worker", "expected", "memory"]


def budget(
    seconds_per_minibatch: ArrayLike,
    remaining: ArrayLike,
    trigger: Trigger = "fastest",
    *,
    quorum: float = 0.5,
    deadline: float | None = None,
) -> float:
    """Convert a trigger into the compute budget of a round, in seconds.

    ``T = q-quantile over workers of remaining_i * tau_i``: the predicted time at which the trigger fires.

    Parameters
    ----------
    seconds_per_minibatch : array_like, shape (N,)
        Estimates tau_i in seconds; NaN if a worker's speed is unknown (the worker is ignored).
    remaining : array_like, shape (N,) or ()
        Mini-batches of each worker's target.
    trigger : {"fastest", "quorum", "deadline"}
        Event that ends the round: the first worker finishes, a fraction ``quorum`` of the workers finishes, or a
        deadline.
    quorum : float
        Fraction in (0, 1] for ``trigger="quorum"``; 1 waits for all workers.
    deadline : float, optional
        Seconds for ``trigger="deadline"``.

    Returns
    -------
    float
        Seconds; infinity if no worker's speed is known.

    Raises
    ------
    ValueError
        If the trigger is unknown or its parameter is out of range.
    """
    if trigger not in get_args(Trigger):
        raise ValueError(f"work.trigger must be one of {', '.join(get_args(Trigger))}; got {trigger}")
    if trigger == "deadline":
        if deadline is None:
            raise ValueError("work.trigger=deadline needs work.deadline, in seconds; got null")
        if not deadline > 0:
            raise ValueError(f"work.deadline must be a positive number of seconds; got {deadline}")
        return float(deadline)
    if not 0 < quorum <= 1:
        raise ValueError(f"work.quorum must lie in (0, 1]; got {quorum}")
    finish = np.asarray(remaining, dtype=np.float64) * np.asarray(seconds_per_minibatch, dtype=np.float64)
    finish = np.sort(finish[np.isfinite(finish)])
    if finish.size == 0:
        return float("inf")
    last = 0 if trigger == "fastest" else int(np.ceil(quorum * finish.size - 1e-9)) - 1
    return float(finish[last])


def scales(
    counts: ArrayLike, target: ArrayLike, estimator: Estimator = "nominal", expected: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the weights s_i of the gradient sums in ``direction = mean_i s_i S_i``.

    Parameters
    ----------
    counts : array_like, shape (N,)
        Finished work M_i of each worker, in mini-batches or, if the last one may be short, in samples.
    target : array_like, shape () or (N,)
        The full work M in the same unit.
    estimator : {"nominal", "finished", "per_worker", "expected", "memory"}
        See :func:`combine`. The weights of ``memory`` are the nominal ones; what it adds is no sum of the round.
    expected : array_like, shape (N,), optional
        Running means E[M_i], for ``estimator="expected"``.

    Returns
    -------
    ndarray, shape (N,)
        s_i in units of 1/count; zero for workers that the estimator excludes.

    Raises
    ------
    ValueError
        If the estimator is unknown, or ``expected`` is missing.
    """
    done = np.asarray(counts, dtype=np.float64)
    full = np.broadcast_to(np.asarray(target, dtype=np.float64), done.shape)
    match estimator:
        case "nominal" | "memory":
            return 1.0 / full
        case "finished":
            return (full.sum() / done.sum() if done.sum() > 0 else 0.0) / full
        case "per_worker":
            share = done.size / max(int(np.count_nonzero(done)), 1)
            return np.divide(share, done, out=np.zeros_like(done), where=done > 0)
        case "expected":
            if expected is None:
                raise ValueError("estimator 'expected' needs the running means E[M_i]; got none")
            mean = np.asarray(expected, dtype=np.float64)
            return np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0)
    raise ValueError(f"work.estimator must be one of {', '.join(get_args(Estimator))}; got {estimator}")


def combine(
    sums: ArrayLike,
    counts: ArrayLike,
    target: ArrayLike,
    estimator: Estimator = "nominal",
    *,
    expected: ArrayLike | None = None,
    memory: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Combine gradient sums over unequal numbers of mini-batches into one descent direction.

    ``nominal``: sum_i S_i / (N M). ``finished``: sum_i S_i / sum_i M_i; where targets differ, the direction of
    ``nominal`` times sum_i target_i / sum_i M_i, so that large batches do not count twice. ``per_worker``: mean over
    workers with M_i > 0 of S_i / M_i. ``expected``: (1/N) sum_i S_i / E[M_i]. ``memory``: (1/N) sum_i of :func:`blend`.

    Parameters
    ----------
    sums : array_like, shape (N, P)
        S_i, the sum of worker i's mini-batch gradients (of its per-sample gradients, if counts are samples).
    counts : array_like, shape (N,)
        M_i.
    target : array_like, shape () or (N,)
        M.
    estimator : {"nominal", "finished", "per_worker", "expected", "memory"}
        Unbiased for IID shards (``nominal`` up to the finished fraction, ``finished`` with the least variance) or for
        non-IID shards (``per_worker`` if every M_i >= 1, ``expected`` even if some M_i = 0, ``memory`` nearly).
    expected : array_like, shape (N,), optional
        Running means E[M_i], for ``expected``.
    memory : array_like, shape (N, P), optional
        h_i, for ``memory``; by default no worker has one yet.

    Returns
    -------
    ndarray, shape (P,)
        The direction, reduced in rank order.
    """
    if estimator == "memory":
        known = np.full(np.shape(sums), np.nan) if memory is None else memory
        return np.asarray(np.nan_to_num(blend(sums, counts, target, known)).mean(axis=0))
    factors = scales(counts, target, estimator, expected)
    return factors @ np.asarray(sums, dtype=np.float64) / factors.size


def blend(sums: ArrayLike, counts: ArrayLike, target: ArrayLike, memory: ArrayLike) -> NDArray[np.float64]:
    """Return each worker's gradient with what it did not finish filled in, which becomes its memory.

    (M_i / M) g_i + (1 - M_i / M) h_i with g_i = S_i / M_i; a worker without memory h_i uses g_i alone. Kin to MIFA (Gu
    et al., *Fast federated learning in the presence of arbitrary device unavailability*, NeurIPS 2021), which
    remembers the updates of absent workers.

    Parameters
    ----------
    sums, counts, target
        As in :func:`combine`.
    memory : array_like, shape (N, P)
        h_i; NaN for a worker that has none.

    Returns
    -------
    ndarray, shape (N, P)
        NaN for a worker that has neither finished anything nor a memory.

    Examples
    --------
    >>> from echelon.algorithms.partial import blend
    >>> blend([[2.0]], [1], 4, [[6.0]])
    array([[5.]])
    """
    total, held = np.asarray(sums, dtype=np.float64), np.asarray(memory, dtype=np.float64)
    done = np.asarray(counts, dtype=np.float64)[:, None]
    share = done / np.broadcast_to(np.asarray(target, dtype=np.float64), np.shape(counts))[:, None]
    own = np.divide(total, done, out=np.full_like(total, np.nan), where=done > 0)
    filled = np.where(done > 0, share * own, 0.0) + (1 - share) * held
    return np.where(np.isnan(held), own, filled)


@dataclass(frozen=True)
class Cursor:
    """Position of a worker in its data: ``position`` samples of pass ``epoch`` have been used."""

    epoch: int = 0
    position: int = 0

    def advance(self, samples: int, shard_size: int) -> "Cursor":
        """Return the cursor after ``samples`` more samples of a shard of ``shard_size``; of none it stays at 0."""
        if not shard_size:
            return self
        passes, position = divmod(self.position + samples, shard_size)
        return Cursor(self.epoch + passes, position)


def sample_order(seed: int, rank: int, epoch: int, shard_size: int) -> NDArray[np.int64]:
    """Return the order in which worker ``rank`` visits its shard in pass ``epoch``, shape (shard_size,)."""
    return rng(seed, "order", rank, epoch).permutation(shard_size)


def upcoming(seed: int, rank: int, cursor: Cursor, shard_size: int, count: int) -> NDArray[np.int64]:
    """Return the next ``count`` positions in a worker's shard from ``cursor`` on, across pass boundaries.

    Parameters
    ----------
    seed, rank : int
        Identify the worker's sample order.
    cursor : Cursor
        Start of the positions.
    shard_size : int
        Number of samples of the worker, at least 1.
    count : int
        Number of positions to return.

    Returns
    -------
    ndarray of int64, shape (count,)
        Each position occurs once per pass, regardless of how passes are divided into rounds.
    """
    pieces = []
    while count > 0:
        piece = sample_order(seed, rank, cursor.epoch, shard_size)[cursor.position : cursor.position + count]
        pieces.append(piece)
        count -= piece.size
        cursor = cursor.advance(piece.size, shard_size)
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def minibatch_sizes(batch_size: int, minibatch_size: int) -> list[int]:
    """Split a batch into mini-batches, the last one shorter if the sizes do not divide."""
    full, rest = divmod(batch_size, minibatch_size)
    return [minibatch_size] * full + ([rest] if rest else [])
