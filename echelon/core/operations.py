"""Operations on what is as large as the models: rows are combined in place."""

from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from echelon.algorithms import mixing as algorithms
from echelon.algorithms import robust
from echelon.core.layout import Row
from echelon.core.mixing import Floats, Ints, Matrix, Mean, Mixing, TrimmedMean
from echelon.core.strategy import Order

Rows = NDArray[np.float32]


def mix(matrix: Matrix, rows: Rows, columns: int | None = None) -> None:
    """Replace the leading columns of the rows by ``matrix @ rows``, in place.

    Parameters
    ----------
    matrix : ndarray or sparse array, shape (N, N), Mean or TrimmedMean
        How to combine.
    rows : float32 ndarray, shape (N, P)
        Changed in place.
    columns : int, optional
        Leading columns to mix; all by default.
    """
    size = rows.shape[1] if columns is None else columns
    if isinstance(matrix, TrimmedMean):
        rows[:, :size] = robust.trimmed_mean(rows[matrix.ranks, :size], matrix.trim)
    elif isinstance(matrix, Mean):
        algorithms.average(matrix.weights, rows, size)
    else:
        algorithms.mix(matrix, rows, columns)


def base_matrix(mixing: Mixing, ranks: Ints) -> Floats:
    """Return the matrix by which corrections are combined, (N, N): without leaders, and restricted to some ranks.

    Raises
    ------
    ValueError
        If the models are combined by no matrix.
    """
    matrix = mixing.matrix if mixing.base is None else mixing.base
    if isinstance(matrix, TrimmedMean):
        raise ValueError("strategy.correction must be none with a trimmed mean, which is no matrix; got tracking")
    return algorithms.restrict(matrix if isinstance(matrix, np.ndarray) else matrix.toarray(), ranks)


def mean_drift(matrix: Matrix, rows: Rows, columns: int | None = None) -> float:
    """Return by how much mixing would move the mean model, in the unit of the parameters."""
    if isinstance(matrix, TrimmedMean):
        mixed = rows[:, :columns]
        trimmed = robust.trimmed_mean(mixed[matrix.ranks], matrix.trim)
        return float(np.linalg.norm(trimmed - mixed.mean(axis=0, dtype=np.float64)))
    if isinstance(matrix, Mean):
        matrix = np.broadcast_to(matrix.weights, (len(rows), len(rows)))  # without the memory of a matrix
    return algorithms.mean_drift(matrix, rows, columns)


def combine(matrix: Matrix, rows: Rows, updated: Mapping[int, Row], columns: int, order: Order) -> float:
    """Put the workers' new rows in their places and mix the leading columns.

    Parameters
    ----------
    matrix : ndarray or sparse array, shape (N, N), Mean or TrimmedMean
        How to combine.
    rows : float32 ndarray, shape (N, P)
        Models at the start of the round; changed in place.
    updated : mapping of rank to float32 ndarray, shape (P,)
        New rows of the workers that took part.
    columns : int
        Number of parameters; the columns behind them (buffers) are replaced and not mixed.
    order : {"adapt_then_combine", "combine_then_adapt"}
        X+ = W Y, or X+ = W X + (Y - X).

    Returns
    -------
    float
        The distance by which mixing moved the mean model.
    """
    if order == "adapt_then_combine":
        for rank, row in updated.items():
            rows[rank] = row
        drift = mean_drift(matrix, rows, columns)
        mix(matrix, rows, columns)
        return drift
    steps = {rank: row[:columns] - rows[rank, :columns] for rank, row in updated.items()}
    drift = mean_drift(matrix, rows, columns)
    mix(matrix, rows, columns)
    for rank, row in updated.items():
        rows[rank, columns:] = row[columns:]
        rows[rank, :columns] += steps[rank]
    return drift


def distances(rows: Sequence[Row] | Rows, graph: nx.Graph, columns: int) -> Floats:
    """Return the distances ||x_j - x_i|| of the leading columns along the edges of a graph, (N, N); 0 elsewhere."""
    found = np.zeros((len(rows), len(rows)))
    for i, j in graph.edges:
        found[i, j] = found[j, i] = np.linalg.norm(rows[i][:columns] - rows[j][:columns])
    return found


def consensus(rows: Rows, trim: int = 0) -> Row:
    """Return the mean of the rows, shape (P,), accumulated in float64 in rank order; buffers are averaged too.

    With ``trim``, the coordinate-wise mean without the ``trim`` smallest and the ``trim`` largest values.
    """
    if trim:
        return robust.trimmed_mean(rows, trim)
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += row
    mean: Row = (total / len(rows)).astype(np.float32)
    return mean
