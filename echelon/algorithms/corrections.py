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
    >>> quasi_global(np.array([1.0]), np.array([3.0]), np.array([2.0]), momentum=0.5, length=0.1)
    array([5.5])
    """
    updated: A = momentum * buffer + ((1 - momentum) / length) * (start - mixed)
    return updated
