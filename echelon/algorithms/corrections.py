"""What is as large as a model and kept for each worker, to train on unlike shards.

The functions are elementwise: they take vectors or rows of numpy or of torch alike, and return new ones.
"""

from typing import Any, Protocol, TypeVar


class _Array(Protocol):
    """What numpy's arrays and torch's tensors have in common here."""

    def __add__(self, other: Any, /) -> Any: ...

    def __sub__(self, other: Any, /) -> Any: ...

    def __rmul__(self, other: Any, /) -> Any: ...


A = TypeVar("A", bound=_Array)


def quasi_global(buffer: A, start: A, mixed: A, *, momentum: float, length: float) -> A:
    """Return the quasi-global momentum after a round, m+ = mu m + (1 - mu) (x_start - x_mixed) / (F lr).

    From Lin et al., *Quasi-global momentum: accelerating decentralized deep learning on heterogeneous data*, ICML 2021
    (QG-DSGDm), with F local steps: during the round each step's direction is mu m + g, with m as it was at its start.

    Parameters
    ----------
    buffer : array or tensor, shape (P,)
        m, in the unit of a gradient; zeros before the first round.
    start, mixed : array or tensor, shape (P,)
        The worker's model at the start of the round, and after mixing.
    momentum : float
        mu in [0, 1).
    length : float
        F lr, with F the steps that the round aims at, the same for all workers: a worker's own count, which is small
        where it finished little, would blow up m, since mixing moves its model as far as that of the others.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.algorithms.corrections import quasi_global
    >>> quasi_global(np.array([1.0]), np.array([3.0]), np.array([2.0]), momentum=0.5, length=0.1)
    array([5.5])
    """
    updated: A = momentum * buffer + ((1 - momentum) / length) * (start - mixed)
    return updated


def mean_gradient(
    start: A,
    end: A,
    *,
    learning_rate: float,
    steps: float,
    momentum: float = 0.0,
    before: A | None = None,
    after: A | None = None,
) -> A:
    """Return the mean gradient of a round of SGD, z = [(1 - mu) (x_start - x_end) / lr + mu (v_end - v_start)] / F.

    From x <- x - lr v, v <- mu v + d: the displacement is lr times the sum of the buffers v, and (1 - mu) times that
    sum plus mu times the change of v is the sum of the directions d. With the displacement alone, tracking diverges
    where there is momentum and F > 1.

    Parameters
    ----------
    start, end : array or tensor, shape (P,)
        The worker's model before and after its steps; not yet scaled or mixed.
    learning_rate : float
        lr.
    steps : float
        F, the steps taken; a partial step counts the finished share of its batch.
    momentum : float
        mu in [0, 1).
    before, after : array or tensor, shape (P,), optional
        v_start and v_end, for mu above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.algorithms.corrections import mean_gradient
    >>> mean_gradient(np.array([3.0]), np.array([2.0]), learning_rate=0.1, steps=2)
    array([5.])
    """
    total: A = ((1 - momentum) / (learning_rate * steps)) * (start - end)
    if before is not None and after is not None:
        total = total + (momentum / steps) * (after - before)
    return total


def tracked(correction: A, own: A, averaged: A) -> A:
    """Return a worker's correction after a round, c_i+ = c_i - z_i + sum_j W_ij z_j.

    Gradient tracking with local steps, K-GT (Liu, Lin, Koloskova & Stich, *Decentralized gradient tracking with local
    steps*, 2023): worker i adds c_i, zeros at first, to every gradient. With a doubly stochastic W the sum of all c_i
    stays zero; with W = J/N this is SCAFFOLD (Karimireddy et al., ICML 2020), and with one step per round gradient
    tracking, y+ = W y + g+ - g for y = g + c.

    Parameters
    ----------
    correction : array or tensor, shape (P,)
        c_i, in the unit of a gradient.
    own, averaged : array or tensor, shape (P,)
        z_i, the mean of the corrected gradients of the round, and its weighted mean over the neighbours.
    """
    updated: A = correction - own + averaged
    return updated
