"""Mixing matrices W and their effect on the rows X: X+ = W X."""

import warnings
from collections.abc import Iterator

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, sparray

Matrix = NDArray[np.float64]
Rows = NDArray[np.float32]

# Elements of the rows per chunk, independent of N. The threads of a product synchronise after every chunk, which
# favours long chunks; sums of squares are memory-bound, which favours chunks that fit in the cache.
_PRODUCT_CHUNK = 1 << 23
_SUM_CHUNK = 1 << 19
# A sparse product is memory-bound, too; it computes one element in the time in which a dense one computes about 16.
_SPARSE_CHUNK = 1 << 18
_SPARSE_SHARE = 1 / 16
# Column sums of a doubly stochastic matrix differ from 1 by rounding.
_ROUNDING = 1e-12


def metropolis(graph: nx.Graph) -> Matrix:
    """Return the Metropolis-Hastings weights W_ij = 1 / (1 + max(d_i, d_j)) on edges, the remainder on the diagonal.

    Parameters
    ----------
    graph : networkx.Graph
        Graph on ranks 0..N-1.

    Returns
    -------
    numpy.ndarray
        (N, N), symmetric, doubly stochastic, non-negative.
    """
    adjacency = _adjacency(graph)
    degrees = adjacency.sum(axis=1)
    return _with_remainder(adjacency / (1 + np.maximum.outer(degrees, degrees)))


def uniform(graph: nx.Graph) -> Matrix:
    """Return W = I - L / (d_max + 1), with equal edge weights; (N, N), symmetric, doubly stochastic."""
    adjacency = _adjacency(graph)
    return _with_remainder(adjacency / (1 + adjacency.sum(axis=1).max()))


def laplacian(graph: nx.Graph) -> Matrix:
    """Return W = I - alpha L with alpha = 2 / (lambda_2 + lambda_N): the fastest converging equal edge weights.

    On a disconnected graph lambda_2 is the smallest positive eigenvalue.

    Parameters
    ----------
    graph : networkx.Graph
        Graph on ranks 0..N-1.

    Returns
    -------
    numpy.ndarray
        (N, N), symmetric, doubly stochastic.

    Warns
    -----
    UserWarning
        Naming workers with negative self weights, which can occur on irregular graphs.

    References
    ----------
    L. Xiao and S. Boyd, Fast linear iterations for distributed averaging, 2004, section 4.1.
    """
    adjacency = _adjacency(graph)
    eigenvalues = np.linalg.eigvalsh(np.diag(adjacency.sum(axis=1)) - adjacency)
    positive = eigenvalues[eigenvalues > 1e-9]
    alpha = 2 / (positive[0] + positive[-1]) if positive.size else 0.0
    W = _with_remainder(alpha * adjacency)
    negative = np.flatnonzero(np.diag(W) < -1e-12).tolist()
    if negative:
        warnings.warn(
            f"laplacian weights give workers {negative} negative self weights; metropolis weights never do",
            UserWarning,
            stacklevel=2,
        )
    return W


def target(graph: nx.Graph, p: ArrayLike) -> Matrix:
    """Return weights with the stationary distribution p: Q_ij = min(p_i / (d_i + 1), p_j / (d_j + 1)) / p_i on edges.

    Parameters
    ----------
    graph : networkx.Graph
        Graph on ranks 0..N-1.
    p : array_like
        (N,) positive weights of the workers, such as their shard sizes; only their ratios matter.

    Returns
    -------
    numpy.ndarray
        (N, N), row-stochastic, p'Q = p': mixing keeps the p-weighted mean of the rows.

    Raises
    ------
    ValueError
        If p has the wrong shape or an entry that is not positive and finite.
    """
    adjacency = _adjacency(graph)
    weights = np.asarray(p, dtype=np.float64)
    if weights.shape != (len(adjacency),):
        raise ValueError(f"target weights must be one per worker, shape ({len(adjacency)},); got shape {weights.shape}")
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(f"target weights must be positive and finite; got {weights.tolist()}")
    offers = weights / (adjacency.sum(axis=1) + 1)
    return _with_remainder(adjacency * np.minimum.outer(offers, offers) / weights[:, None])


def restrict(W: Matrix, present: ArrayLike) -> Matrix:
    """Return the mixing matrix of a round in which some workers are absent.

    W~_ij = W_ij for present i != j, W~_ii = 1 - sum over present j != i of W_ij; absent rows and columns are those of
    the identity. This preserves symmetry, double stochasticity and p'W = p'; dividing rows by their sum would not.

    Parameters
    ----------
    W : numpy.ndarray
        (N, N) with rows that sum to 1.
    present : array_like
        Participating ranks; may be empty.

    Returns
    -------
    numpy.ndarray
        (N, N), a new matrix.
    """
    ranks = np.asarray(present, dtype=np.intp)
    block = np.ix_(ranks, ranks)
    restricted = np.eye(len(W))
    restricted[block] = _with_remainder(W[block])
    return restricted


def spectral_gap(W: Matrix) -> float:
    """Return 1 - |second largest eigenvalue of W in modulus|, in [0, 1]; 1 means averaging in one round (N = 1: 1)."""
    moduli = np.sort(np.abs(np.linalg.eigvals(W)))
    return float(1 - moduli[-2]) if len(moduli) > 1 else 1.0


def consensus_distance(X: Rows) -> float:
    """Return the root mean square distance of the rows to their mean, sqrt(sum_i ||x_i - mean||^2 / N).

    Parameters
    ----------
    X : numpy.ndarray
        (N, P) rows. Processed in column chunks with float64 sums, without an (N, P) copy.

    Returns
    -------
    float
        In the unit of the parameters; 0 if and only if all rows are equal.
    """
    total = 0.0
    n, size = X.shape
    for chunk in _chunks(n, size, _SUM_CHUNK):
        part = X[:, chunk]
        if (part[0] == part[-1]).all() and (part == part[0]).all():
            continue  # of an average
        deviations = part.astype(np.float64)
        deviations -= deviations.mean(axis=0)
        total += float(np.einsum("ij,ij->", deviations, deviations))  # single-threaded, as it is memory-bound
    return float(np.sqrt(total / n))


def mix(W: Matrix | sparray, rows: Rows, columns: int | None = None) -> None:
    """Replace rows[:, :columns] by W @ rows[:, :columns], in place.

    One matrix product in column chunks, with 32 MB of additional memory; a sparse one where less than a sixteenth of W
    is not zero. Each element is a sum over ranks within one chunk.

    Parameters
    ----------
    W : numpy.ndarray or scipy.sparse.sparray
        (N, N) float64; the product is computed in the precision of the rows.
    rows : numpy.ndarray
        (N, P) float32, changed in place.
    columns : int, optional
        Number of leading columns to mix; the others (such as BatchNorm buffers) are unchanged. Default: all.
    """
    size = rows.shape[1] if columns is None else columns
    weights, chunk_size = W.astype(rows.dtype), _PRODUCT_CHUNK
    if not isinstance(weights, np.ndarray) or np.count_nonzero(weights) < _SPARSE_SHARE * weights.size:
        weights, chunk_size = csr_array(weights), _SPARSE_CHUNK
    for chunk in _chunks(len(rows), size, chunk_size):
        rows[:, chunk] = weights @ rows[:, chunk]


def average(weights: Matrix, rows: Rows, columns: int | None = None) -> None:
    """Replace the leading columns of every row by ``weights @ rows[:, :columns]``, in place.

    This is :func:`mix` with a matrix of equal rows, in a time linear in N.

    Parameters
    ----------
    weights : numpy.ndarray
        (N,) float64; the sum is computed in the precision of the rows.
    rows : numpy.ndarray
        (N, P) float32, changed in place; afterwards its leading columns are equal, bit by bit.
    columns : int, optional
        As for :func:`mix`.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.algorithms import mixing
    >>> rows = np.array([[1, 5], [3, 6]], dtype=np.float32)
    >>> mixing.average(np.array([0.5, 0.5]), rows, columns=1)
    >>> rows.tolist()
    [[2.0, 5.0], [2.0, 6.0]]
    """
    size = rows.shape[1] if columns is None else columns
    for chunk in _chunks(len(rows), size, _PRODUCT_CHUNK):
        rows[:, chunk] = weights.astype(rows.dtype) @ rows[:, chunk]


def mean_drift(W: Matrix | sparray, rows: Rows, columns: int | None = None) -> float:
    """Return ||mean(W X) - mean(X)||_2 for X = rows[:, :columns], without computing W X.

    Mixing moves the mean by ((1'W - 1') / N) X, a vector-matrix product with the column sums of W. For doubly
    stochastic W it is 0; for AL-DSGD it is the force towards the leaders.
    """
    excess = W.sum(axis=0) - 1
    if np.abs(excess).max() < _ROUNDING:
        return 0.0
    size = rows.shape[1] if columns is None else columns
    pull = (excess / len(rows)).astype(rows.dtype)
    moves = (pull @ rows[:, chunk] for chunk in _chunks(len(rows), size, _PRODUCT_CHUNK))
    return float(np.sqrt(sum(float(np.sum(np.square(move, dtype=np.float64))) for move in moves)))


def _adjacency(graph: nx.Graph) -> Matrix:
    return nx.to_numpy_array(graph, nodelist=range(len(graph)), weight=None)  # type: ignore[no-any-return]


def _with_remainder(weights: Matrix) -> Matrix:
    """Set the diagonal such that every row sums to 1."""
    np.fill_diagonal(weights, 0)
    np.fill_diagonal(weights, 1 - weights.sum(axis=1))
    return weights


def _chunks(n: int, size: int, elements: int) -> Iterator[slice]:
    step = max(1, elements // n)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
