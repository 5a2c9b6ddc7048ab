"""Robust averaging: self-centred clipping on graphs, and the coordinate-wise trimmed mean."""

import networkx as nx
import numpy as np

from echelon.algorithms.mixing import Matrix, Rows

# Elements per chunk that is sorted; it fits in the cache.
_SORT_CHUNK = 1 << 17


def assumed_liars(num_workers: int) -> int:
    """Return the number of liars that robust rules provide for: a fifth of the workers, at least 1 of 3 or more.

    Examples
    --------
    >>> from echelon.algorithms.robust import assumed_liars
    >>> [assumed_liars(n) for n in (1, 2, 3, 8, 10, 50)]
    [0, 0, 1, 1, 2, 10]
    """
    return max(1, num_workers // 5) if num_workers >= 3 else 0


def radii(distances: Matrix, graph: nx.Graph) -> Matrix:
    """Return the clipping radius of every worker: the median of its distances to its neighbours.

    Of an even number of distances, the lower one of the two in the middle: as long as fewer than half of a worker's
    neighbours lie, and with two neighbours at most one, its radius is at most the distance to an honest neighbour.

    Parameters
    ----------
    distances : numpy.ndarray
        (N, N), ||y_j - y_i|| on the edges of the graph.
    graph : networkx.Graph
        Whom each worker compares itself with, on ranks 0..N-1.

    Returns
    -------
    numpy.ndarray
        (N,); infinite for a worker without neighbours.
    """
    result = np.full(len(distances), np.inf)
    for rank in graph:
        around = np.sort(distances[rank, sorted(graph[rank])])
        if around.size:
            result[rank] = around[(around.size - 1) // 2]
    return result


def clip(W: Matrix, distances: Matrix, radius: Matrix) -> Matrix:
    """Return the matrix of self-centred clipping, x_i+ = y_i + sum_j W_ij clip(y_j - y_i, tau_i).

    Clipping shortens a difference to the length tau_i, which is the same as a smaller weight:
    M_ij = W_ij min(1, tau_i / ||y_j - y_i||) for j != i, and the remainder on the diagonal.

    Parameters
    ----------
    W : numpy.ndarray
        (N, N), rows sum to 1.
    distances : numpy.ndarray
        (N, N), ||y_j - y_i|| wherever W_ij is not 0.
    radius : numpy.ndarray
        (N,), tau_i, at least 0; infinite for no clipping.

    Returns
    -------
    numpy.ndarray
        (N, N), rows sum to 1. It is not symmetric: mixing may move the mean model.

    References
    ----------
    L. He, S. P. Karimireddy and M. Jaggi, Byzantine-robust decentralized learning via ClippedGossip, 2022.

    Examples
    --------
    Worker 0 compares itself with a near and a far neighbour:

    >>> import numpy as np
    >>> from echelon.algorithms.robust import clip
    >>> W = np.array([[0.5, 0.25, 0.25], [0.25, 0.75, 0.0], [0.25, 0.0, 0.75]])
    >>> distances = np.array([[0.0, 1.0, 10.0], [1.0, 0.0, 9.0], [10.0, 9.0, 0.0]])
    >>> clip(W, distances, np.array([1.0, 1.0, 10.0]))[0]
    array([0.725, 0.25 , 0.025])
    """
    shares = np.ones_like(W)
    np.divide(radius[:, None], distances, out=shares, where=distances > radius[:, None])
    clipped: Matrix = W * shares
    np.fill_diagonal(clipped, 0)
    np.fill_diagonal(clipped, 1 - clipped.sum(axis=1))
    return clipped


def trimmed_mean(rows: Rows, trim: int) -> Rows:
    """Return the coordinate-wise mean without the ``trim`` smallest and the ``trim`` largest values.

    Parameters
    ----------
    rows : numpy.ndarray
        (n, P) float32.
    trim : int
        At least 0, below n / 2.

    Returns
    -------
    numpy.ndarray
        (P,) float32, accumulated in float64.

    Raises
    ------
    ValueError
        If nothing would be left.

    References
    ----------
    D. Yin, Y. Chen, K. Ramchandran and P. Bartlett, Byzantine-robust distributed learning, ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.algorithms.robust import trimmed_mean
    >>> trimmed_mean(np.array([[1], [2], [3], [900]], np.float32), 1)
    array([2.5], dtype=float32)
    """
    count, size = rows.shape
    if not 0 <= 2 * trim < count:
        raise ValueError(f"trim must be at least 0 and below half of the {count} rows; got {trim}")
    result = np.empty(size, dtype=np.float32)
    step = max(1, _SORT_CHUNK // count)
    for start in range(0, size, step):
        chunk = np.sort(rows[:, start : start + step], axis=0)[trim : count - trim]
        result[start : start + step] = chunk.mean(axis=0, dtype=np.float64)
    return result
