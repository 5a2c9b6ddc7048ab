"""Exact greedy division of one class among blocks, with gains that are updated instead of recomputed.

f(A) is facility location, sum_v max_{u in A} s(v, u), or graph cut, sum_v sum_{u in A} s(v, u) - lam sum_{v, u in A}
s(v, u), which for lam = 1 is the weight of the edges between A and the rest.  While samples remain, a block A below its
size receives the remaining sample v of largest gain f(A + v) - f(A).
"""

import numpy as np
import numpy.typing as npt

from ..base import FloatArray, IntArray
from .compiled import compiled

Matrix = npt.NDArray[np.float32]


@compiled
def tie(samples: int) -> float:
    """Return the difference up to which gains count as equal: above float64 rounding, below any real difference."""
    return 1e-12 * samples


@compiled
def next_block(value: FloatArray, count: IntArray, sizes: IntArray, fill: bool, slack: float) -> int:
    """Return the least filled of the blocks below their sizes, or that of smallest value (ties: lowest block)."""
    chosen, low = -1, 0.0
    for block in range(sizes.size):
        if count[block] < sizes[block]:
            key = count[block] / sizes[block] if fill else value[block]
            if chosen < 0 or key < (low if fill else low - slack):
                chosen, low = block, key
    return chosen


@compiled
def best_left(gain: FloatArray, owner: IntArray, slack: float) -> int:
    """Return the sample of largest gain among those without an owner, -1 if none is left (ties: lowest sample)."""
    chosen, high = -1, 0.0
    for sample in range(gain.size):
        if owner[sample] < 0 and (chosen < 0 or gain[sample] > high + slack):
            chosen, high = sample, gain[sample]
    return chosen


@compiled
def facility_location(s: Matrix, sizes: IntArray, fill: bool = False) -> tuple[IntArray, FloatArray]:
    """Divide samples among blocks by facility location.

    A sample v* that joins block A changes only the rows u that are more similar to v* than to any sample of A; there
    the gain of every v falls by clip(s(u, v), old, new) - old, old and new being the largest similarities of u to A
    before and after.

    Parameters
    ----------
    s : (n, n) float32 array
        Similarities, symmetric and non-negative.
    sizes : (B,) int64 array
        Samples of each block, summing to n or less.
    fill : bool
        Choose the least filled block next; otherwise the one of smallest f.

    Returns
    -------
    owner : (n,) int64 array
        Block of each sample, -1 for samples in no block.
    value : (B,) float64 array
        f of each block.
    """
    n, slack = s.shape[0], tie(s.shape[0])
    owner = np.full(n, -1, dtype=np.int64)
    value, count = np.zeros(sizes.size), np.zeros(sizes.size, dtype=np.int64)
    gains, nearest = _row_sums(s, sizes.size), np.zeros((sizes.size, n), dtype=np.float32)
    for _ in range(sizes.sum()):
        block = next_block(value, count, sizes, fill, slack)
        gain, near = gains[block], nearest[block]
        sample = best_left(gain, owner, slack)
        owner[sample] = block
        count[block] += 1
        value[block] += gain[sample]
        if count[block] < sizes[block]:
            for u in range(n):
                old, new = near[u], s[sample, u]
                if new > old:
                    near[u] = new
                    _lower(gain, s[u], old, new)
    return owner, value


@compiled
def graph_cut(s: Matrix, sizes: IntArray, fill: bool = False, lam: float = 1.0) -> tuple[IntArray, FloatArray]:
    """Divide samples among blocks by graph cut; arguments and results as in `facility_location`.

    A sample v* that joins block A lowers the gain of every v by 2 lam s(v*, v).
    """
    n, slack = s.shape[0], tie(s.shape[0])
    owner = np.full(n, -1, dtype=np.int64)
    value, count = np.zeros(sizes.size), np.zeros(sizes.size, dtype=np.int64)
    gains = _row_sums(s, sizes.size)
    for v in range(n):
        gains[:, v] -= lam * s[v, v]
    for _ in range(sizes.sum()):
        block = next_block(value, count, sizes, fill, slack)
        gain = gains[block]
        sample = best_left(gain, owner, slack)
        owner[sample] = block
        count[block] += 1
        value[block] += gain[sample]
        if count[block] < sizes[block]:
            for v in range(n):
                gain[v] -= 2 * lam * s[sample, v]
    return owner, value


@compiled
def _row_sums(s: Matrix, blocks: int) -> FloatArray:
    """Return the gains for empty blocks: the sums of the rows, repeated for each block, shape (blocks, n)."""
    sums = np.zeros((blocks, s.shape[0]))
    for u in range(s.shape[0]):
        for v in range(s.shape[0]):
            sums[0, v] += s[u, v]
    for block in range(1, blocks):
        sums[block] = sums[0]
    return sums


@compiled
def _lower(gain: FloatArray, row: Matrix, old: np.float32, new: np.float32) -> None:
    """Subtract clip(row, old, new) - old from the gains, in place, in a form that the compiler vectorises."""
    for v in range(gain.size):
        clipped = row[v] if row[v] < new else new
        clipped = clipped if clipped > old else old
        gain[v] -= np.float64(clipped) - np.float64(old)
