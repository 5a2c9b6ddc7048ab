"""Graph cut for a class whose similarity matrix does not fit into memory: its rows are computed on demand."""

import numpy as np

from ..base import FloatArray, IntArray
from .greedy import best_left, next_block, tie
from .kernel import KernelName, Matrix, Points, median_distance, squared_distances, to_similarity

_ROWS = 64  # rows per matrix product
_SAMPLED = 4096  # samples from whose pairs the median is estimated


def estimated_bandwidth(points: Points) -> float:
    """Return the median squared distance among at most 4096 evenly spaced points."""
    spaced = slice(None, None, -(-len(points.squares) // _SAMPLED))
    return median_distance(squared_distances(Points(points.vectors[spaced], points.squares[spaced])))


def graph_cut(
    points: Points, kernel: KernelName, bandwidth: float, sizes: IntArray, fill: bool = False, lam: float = 1.0
) -> tuple[IntArray, FloatArray]:
    """Divide samples among blocks as `greedy.graph_cut` does, in O(n (d + blocks)) memory.

    Each step needs only the row of the sample it places.  The next choice of another block changes only if that very
    sample is placed elsewhere, so the rows of the next choices of several blocks are computed in one product.

    Parameters
    ----------
    points : Points
        As returned by `kernel.embed`.
    kernel, bandwidth
        As in `kernel.to_similarity`.
    sizes, fill, lam
        As in `greedy.graph_cut`.

    Returns
    -------
    owner : (n,) int64 array
        Block of each sample, -1 for samples in no block.
    value : (B,) float64 array
        f of each block.
    """
    n = len(points.squares)
    owner = np.full(n, -1, dtype=np.int64)
    value, count = np.zeros(len(sizes)), np.zeros(len(sizes), dtype=np.int64)
    gains = np.tile(_row_sums(points, kernel, bandwidth) - lam, (len(sizes), 1))
    rows: dict[int, Matrix] = {}
    for _ in range(int(sizes.sum())):
        block = next_block(value, count, sizes, fill, tie(n))
        sample = best_left(gains[block], owner, tie(n))
        if sample not in rows:
            order = np.argsort(count / sizes if fill else value, kind="stable")
            waiting = order[(count < sizes)[order] & (order != block)]
            chosen = _next_choices(gains[waiting[: _ROWS - 1]], owner, sample)
            rows = dict(zip(chosen.tolist(), _rows(points, kernel, bandwidth, chosen), strict=True))
        owner[sample] = block
        count[block] += 1
        value[block] += gains[block, sample]
        gains[block] -= 2 * lam * rows.pop(sample)
    return owner, value


def _next_choices(gains: FloatArray, owner: IntArray, first: int) -> IntArray:
    """Return `first`, then the next choices of the blocks with these gains, in the order of the blocks."""
    chosen, claimed = [first], owner.copy()
    for gain in gains:
        claimed[chosen[-1]] = 0
        if (sample := best_left(gain, claimed, tie(len(owner)))) < 0:
            break
        chosen.append(sample)
    return np.array(chosen)


def _row_sums(points: Points, kernel: KernelName, bandwidth: float) -> FloatArray:
    every = np.arange(len(points.squares))
    pieces = np.split(every, range(_ROWS, len(every), _ROWS))
    return np.concatenate([_rows(points, kernel, bandwidth, piece).sum(axis=1, dtype=np.float64) for piece in pieces])


def _rows(points: Points, kernel: KernelName, bandwidth: float, rows: IntArray) -> Matrix:
    return to_similarity(squared_distances(points, rows), kernel, bandwidth)
