"""What a strategy returns in a round: how the workers' models are combined."""

from dataclasses import dataclass
from typing import TypeAlias

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import sparray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Mean:
    """Every worker gets the same weighted mean of all models: a matrix with equal rows, of which only one is kept.

    Attributes
    ----------
    weights : float64 ndarray, shape (N,)
        Non-negative; they sum to 1, and an absent worker's is 0.
    """

    weights: Floats

    def toarray(self) -> Floats:
        """Return the matrix, shape (N, N)."""
        return np.tile(self.weights, (len(self.weights), 1))


@dataclass(frozen=True)
class TrimmedMean:
    """Every worker gets the coordinate-wise trimmed mean of some models; no matrix, since each coordinate has its own.

    Attributes
    ----------
    ranks : int64 ndarray, shape (n,)
        Whose models count.
    trim : int
        Smallest and largest values of each coordinate that do not; below n / 2.
    """

    ranks: Ints
    trim: int


@dataclass(frozen=True)
class Complete:
    """The graph of all edges between some workers, which is not listed: n of them have n (n - 1) / 2.

    Attributes
    ----------
    ranks : int64 ndarray, shape (n,)
        The workers that are present.
    """

    ranks: Ints


Matrix: TypeAlias = Floats | sparray | Mean | TrimmedMean


@dataclass(frozen=True)
class Leaders:
    """The neighbours that a worker follows (AL-DSGD), by rank; a worker without neighbours leads itself.

    Attributes
    ----------
    best, degree : int64 ndarray, shape (N,)
        Rank of the neighbour with the lowest loss, and of the one with the highest degree.
    active : bool
        Whether the leaders had weight in this round.
    """

    best: Ints
    degree: Ints
    active: bool = True


@dataclass(frozen=True)
class Mixing:
    """How a round's models are combined: X+ = matrix @ Y.

    Attributes
    ----------
    matrix : ndarray or sparse array, shape (N, N), Mean or TrimmedMean
        Rows sum to 1; an absent worker's row is a unit vector (under a :class:`Mean` or :class:`TrimmedMean` it gets
        the mean).
    graph : networkx.Graph or Complete
        The edges between present workers that were active, on ranks 0..N-1.
    models_sent : float64 ndarray, shape (N,)
        Models that each worker sends in a peer-to-peer deployment.
    leaders : Leaders or None
        Whom each worker follows, for a strategy with leaders.
    base : ndarray, sparse array, Mean or None
        The matrix without leaders, by which corrections are combined; None where that is ``matrix``.
    """

    matrix: Matrix
    graph: nx.Graph | Complete
    models_sent: Floats
    leaders: Leaders | None = None
    base: Matrix | None = None


@dataclass(frozen=True)
class Pull:
    """A force within the workers' own steps: worker i's gradient gets ``strengths[i] (x - weights[i] @ X)`` added.

    Attributes
    ----------
    weights : float64 ndarray, shape (N, N)
        Rows sum to 1; X are the models at the start of the round.
    strengths : float64 ndarray, shape (N,)
        At least 0.
    """

    weights: Floats
    strengths: Floats
