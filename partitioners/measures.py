"""Measures of how well blocks of samples represent the samples they were drawn from."""

import numpy as np
import numpy.typing as npt

from .base import FloatArray, IntArray, centred
from .submodular.compiled import compiled

Matrix = npt.NDArray[np.float32]

_ROWS = 1024  # samples whose Fourier features are in memory at a time
_FREQUENCIES = 1024  # random Fourier frequencies: they give MMD^2 to a few percent
_COLUMNS = 4096  # samples whose distances to all queries are in memory at a time


def compare_rows(s: Matrix, owner: IntArray, blocks: int) -> tuple[FloatArray, FloatArray]:
    """Return the mean and the largest similarity of samples to blocks.

    Parameters
    ----------
    s : (m, n) float32 array
        Similarities of m samples to all n.
    owner : (n,) int64 array
        Block of each sample.
    blocks : int

    Returns
    -------
    means : (m, B) float64 array
        Mean similarity to the members of each block; NaN for an empty block.
    coverage : (B,) float64 array
        Mean over the m samples of the largest similarity to a member; f(A) / n of facility location if m = n; 0 for an
        empty block.
    """
    sums, largest = _sums_and_largest(s, owner, blocks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / np.bincount(owner, minlength=blocks), largest.mean(axis=0, dtype=np.float64)


@compiled
def _sums_and_largest(s: Matrix, owner: IntArray, blocks: int) -> tuple[FloatArray, Matrix]:
    sums, largest = np.zeros((s.shape[0], blocks)), np.zeros((s.shape[0], blocks), dtype=np.float32)
    for v in range(s.shape[0]):
        for u in range(s.shape[1]):
            sums[v, owner[u]] += s[v, u]
            if s[v, u] > largest[v, owner[u]]:
                largest[v, owner[u]] = s[v, u]
    return sums, largest


def mmd2(means: FloatArray, whole: FloatArray, owner: IntArray) -> FloatArray:
    """Return the squared maximum mean discrepancy between each block and the whole.

    Parameters
    ----------
    means : (n, B) array
        As returned by `compare_rows` for all samples.
    whole : (n,) array
        Mean similarity of every sample to all samples.
    owner : (n,) int64 array
        Block of each sample.

    Returns
    -------
    (B,) array
        |mean of the block - mean of the whole|^2 in the kernel's feature space (Gretton et al. 2012, JMLR 13,
        equation 5); NaN for an empty block.
    """
    result = np.full(means.shape[1], np.nan)
    for block in np.unique(owner):
        mine = owner == block
        result[block] = means[mine, block].mean() - 2 * whole[mine].mean() + whole.mean()
    return result


def random_mmd2(size: npt.ArrayLike, total: int, mean_similarity: float) -> FloatArray:
    """Return the expectation of `mmd2` for blocks drawn at random without replacement, given a unit self-similarity.

    It is the variance of a sample mean, (total - size) / (total - 1) sigma^2 / size with sigma^2 = 1 - mean_similarity.
    """
    sizes = np.asarray(size, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray((total - sizes) / max(total - 1, 1) * (1 - mean_similarity) / sizes)


def fourier_means(x: Matrix, bandwidth: float, owner: IntArray, blocks: int, rng: np.random.Generator) -> FloatArray:
    """Return the mean of each block, then of all samples, in random Fourier features of the Gaussian kernel.

    Squared distances between these means estimate MMD^2 without bias and without an n x n matrix (Rahimi and Recht
    2007).

    Parameters
    ----------
    x : (n, d) float32 array
    bandwidth : float
        Bandwidth of exp(-|v - u|^2 / bandwidth).
    owner : (n,) int64 array
    blocks : int
    rng : numpy.random.Generator
        Draws the frequencies.

    Returns
    -------
    (B + 1, D) float64 array
        NaN for an empty block.
    """
    frequencies = rng.standard_normal((x.shape[1], _FREQUENCIES), dtype=np.float32) * np.float32(np.sqrt(2 / bandwidth))
    member = (owner[:, None] == np.arange(blocks)).astype(np.float32)
    sums = np.zeros((blocks, 2 * _FREQUENCIES))
    for start in range(0, len(x), _ROWS):
        phase = x[start : start + _ROWS] @ frequencies
        waves = np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / np.float32(np.sqrt(_FREQUENCIES))
        sums += member[start : start + _ROWS].T @ waves
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / member.sum(axis=0)[:, None]
    return np.vstack([means, sums.sum(axis=0) / len(x)])


def neighbour_accuracy(
    features: npt.NDArray[np.generic], labels: IntArray, owners: list[IntArray], blocks: int, queries: IntArray
) -> list[FloatArray]:
    """Return the fraction of queries whose nearest neighbour within a block has the query's label.

    Parameters
    ----------
    features : (n, d) array
    labels : (n,) int64 array
    owners : list of (n,) int64 arrays
        Partitions to compare; distances are computed once for all of them.
    blocks : int
    queries : (q,) int64 array
        Samples to classify; none is its own neighbour.

    Returns
    -------
    list of (B,) arrays
        One per partition; 0 for an empty block.
    """
    centre = features[queries].mean(axis=0, dtype=np.float64)
    points = centred(features[queries], centre)
    nearest = np.full((len(owners), blocks, len(queries)), np.inf, dtype=np.float32)
    neighbours = np.full(nearest.shape, -1, dtype=np.int64)
    for start in range(0, len(labels), _COLUMNS):
        x = centred(features[start : start + _COLUMNS], centre)
        distances = np.einsum("ij,ij->i", x, x) - 2 * (points @ x.T)  # up to the queries' squared lengths
        own = np.flatnonzero((queries >= start) & (queries < start + len(x)))
        distances[own, queries[own] - start] = np.inf
        for which, owner in enumerate(owners):
            _keep_nearest(distances, owner[start : start + len(x)], start, nearest[which], neighbours[which])
    correct = (neighbours >= 0) & (labels[neighbours] == labels[queries])
    return list(correct.mean(axis=2))


@compiled
def _keep_nearest(distances: Matrix, owner: IntArray, start: int, nearest: Matrix, neighbours: IntArray) -> None:
    """Replace, in place, each query's nearest neighbour in each block by a nearer one among samples from `start` on."""
    for query in range(distances.shape[0]):
        for sample in range(distances.shape[1]):
            block = owner[sample]
            if distances[query, sample] < nearest[block, query]:
                nearest[block, query] = distances[query, sample]
                neighbours[block, query] = start + sample
