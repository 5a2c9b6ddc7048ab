"""Whole numbers of samples per class and worker, within one sample of the exact shares."""

from itertools import pairwise

import networkx as nx
import numpy as np
import numpy.typing as npt

from .base import FloatArray, IntArray

_EXACT = 1e-9  # fractions closer than this count as equal: their difference is rounding


def quotas(counts: npt.ArrayLike, shares: FloatArray) -> IntArray:
    """Divide each class among the workers in proportion to their shares.

    Parameters
    ----------
    counts : (L,) array of int
        Samples of each class.
    shares : (N,) array
        Share of each worker, summing to one.

    Returns
    -------
    (L, N) int64 array
        Rows sum to `counts`; every entry and every column sum is within one of its share.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.partitioners.quotas import quotas
    >>> quotas([10, 3], np.array([0.25, 0.75])).tolist()
    [[3, 7], [0, 3]]
    """
    return round_table(np.outer(np.asarray(counts, dtype=np.float64), shares))


def round_table(shares: FloatArray) -> IntArray:
    """Round a table so that its row sums, which are whole, do not change and all else changes by less than one.

    Rows are rounded in turn by largest remainder (ties: lowest column), where a column's remainder includes the
    rounding errors of earlier rows.  In rare cases this leaves a column sum off by one or more; such columns are then
    repaired.  That this is always possible is the controlled rounding theorem (Bacharach 1966, Management Science
    12(9); Cox 1987, JASA 82(398)).

    Parameters
    ----------
    shares : (L, N) array
        Non-negative, with whole row sums.

    Returns
    -------
    (L, N) int64 array
        Entries and column sums differ from those of `shares` by less than one.
    """
    base = np.floor(shares + _EXACT)
    rest = np.maximum(shares - base, 0.0)
    extras = np.rint(rest.sum(axis=1)).astype(np.int64)
    extra = np.zeros(shares.shape, dtype=np.bool_)
    owed = np.zeros(shares.shape[1])
    for row, count in enumerate(extras):
        claim = np.where(rest[row] > _EXACT, np.round(rest[row] + owed, 9), -np.inf)
        extra[row, np.argsort(-claim, kind="stable")[:count]] = True
        owed += rest[row] - extra[row]
    _repair(extra, rest, owed)
    return (base + extra).astype(np.int64)


def _repair(extra: npt.NDArray[np.bool_], rest: FloatArray, owed: FloatArray) -> None:
    """Move single units along rows, in place, until no column sum is off by one or more."""
    while np.abs(owed).max() >= 1 - _EXACT:
        short = owed.max() >= 1 - _EXACT
        end = int(owed.argmax() if short else owed.argmin())
        others = np.flatnonzero(owed < -_EXACT if short else owed > _EXACT)
        free = ~extra & (rest > _EXACT)
        graph = nx.from_numpy_array(extra.T.astype(np.int64) @ free.astype(np.int64), create_using=nx.DiGraph)
        reach = nx.single_source_shortest_path(graph.reverse() if short else graph, end)
        path = min((reach[int(other)] for other in others if int(other) in reach), key=lambda p: (len(p), p))
        path = path[::-1] if short else path
        moves = [(a, b, int(np.flatnonzero(extra[:, a] & free[:, b])[0])) for a, b in pairwise(path)]
        for giver, taker, row in moves:
            extra[row, giver], extra[row, taker] = False, True
        owed[path[0]] += 1
        owed[path[-1]] -= 1
