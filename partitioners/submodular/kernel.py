"""Similarities of the samples of one class, in float32, by matrix products in place: one n x n array in total."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..base import IntArray, centred
from .compiled import compiled

Matrix = npt.NDArray[np.float32]
KernelName = Literal["gaussian", "cosine"]

_ROWS = 256  # rows per step: they stay in the processor's cache


@dataclass(frozen=True)
class Points:
    """Vectors whose squared distances determine the kernel.

    Parameters
    ----------
    vectors : (n, d) float32 array
    squares : (n,) float32 array
        Their squared lengths.
    """

    vectors: Matrix
    squares: Matrix


def embed(features: npt.NDArray[np.generic], kernel: KernelName) -> Points:
    """Centre the features, which keeps float32 distances accurate, or scale them to unit length for the cosine.

    Parameters
    ----------
    features : (n, d) array
        Finite real numbers.
    kernel : "gaussian" or "cosine"

    Raises
    ------
    ValueError
        If a vector is too long for float32, or is zero and the kernel is the cosine.
    """
    if kernel == "gaussian":
        with np.errstate(over="ignore"):  # see below
            x = centred(features, features.mean(axis=0, dtype=np.float64))
    else:
        x = np.array(features, dtype=np.float32)
    squares = np.einsum("ij,ij->i", x, x)
    if not np.isfinite(squares).all():
        raise ValueError(f"features must have squared lengths below {np.finfo(np.float32).max:.1g}: scale them down")
    if kernel == "cosine":
        if not squares.all():
            raise ValueError(
                "features must not be all zero with partitioner.kernel=cosine: use gaussian, or add a column"
            )
        x /= np.sqrt(squares)[:, None]
        squares = np.ones_like(squares)
    return Points(x, squares)


def squared_distances(points: Points, rows: IntArray | None = None) -> Matrix:
    """Return squared Euclidean distances from the points in `rows` to all points.

    Parameters
    ----------
    points : Points
    rows : (m,) int64 array, optional
        Indices of points.  None: all points.

    Returns
    -------
    (m, n) float32 array
        Zero, exactly, from a point to itself.
    """
    x, squares = points.vectors, points.squares
    left = np.arange(len(x)) if rows is None else rows
    products = x @ x.T if rows is None else x[rows] @ x.T
    for start in range(0, len(left), _ROWS):
        block = products[start : start + _ROWS]
        block *= -2
        block += squares[left[start : start + _ROWS], None] + squares  # added first: the result is then symmetric
        np.maximum(block, 0, out=block)
    products[np.arange(len(left)), left] = 0
    return products


def to_similarity(distances: Matrix, kernel: KernelName, bandwidth: float) -> Matrix:
    """Turn squared distances d^2 into exp(-d^2 / bandwidth) or, for unit vectors, into (1 + cosine) / 2; in place."""
    for start in range(0, len(distances), _ROWS):
        block = distances[start : start + _ROWS]
        if kernel == "gaussian":
            block *= np.float32(-1 / bandwidth)
            np.exp(block, out=block)
        else:
            block *= np.float32(-0.25)
            block += 1
    return distances


def similarity(
    features: npt.NDArray[np.generic], kernel: KernelName = "gaussian", bandwidth: float | None = None
) -> Matrix:
    """Return the similarities of all pairs of samples.

    Parameters
    ----------
    features : (n, d) array
    kernel : "gaussian" or "cosine"
        exp(-|v - u|^2 / bandwidth), or (1 + cos(v, u)) / 2.
    bandwidth : float, optional
        None: the median squared distance of two different samples (their mean where the median is 0).

    Returns
    -------
    (n, n) float32 array
        Symmetric, in [0, 1], with a unit diagonal.
    """
    distances = squared_distances(embed(features, kernel))
    return to_similarity(distances, kernel, median_distance(distances) if bandwidth is None else bandwidth)


def median_distance(distances: Matrix) -> float:
    """Return the median over the pairs u < v of an (n, n) array of squared distances.

    If it is 0, because most samples are copies of one another, the mean is returned instead; if that is 0 too, 1.
    """
    pairs = len(distances) * (len(distances) - 1) // 2
    if pairs == 0:
        return 1.0
    bits = distances.view(np.int32)  # the bit patterns of non-negative floats have the order of the floats
    middle = np.array([_nth(bits, (pairs - 1) // 2), _nth(bits, pairs // 2)], dtype=np.int32).view(np.float32)
    return float(middle.mean(dtype=np.float64)) or float(distances.mean(dtype=np.float64)) or 1.0


@compiled
def _nth(bits: npt.NDArray[np.int32], rank: int) -> int:
    """Return the element of this rank (from 0) above the diagonal: first its upper, then its lower 16 bits."""
    high = 0
    for half in range(2):
        counts = np.zeros(1 << 16, dtype=np.int64)
        for row in range(bits.shape[0]):
            for column in range(row + 1, bits.shape[1]):
                if half == 0:
                    counts[bits[row, column] >> 16] += 1
                elif bits[row, column] >> 16 == high:
                    counts[bits[row, column] & 0xFFFF] += 1
        low = 0
        while counts[low] <= rank:
            rank -= counts[low]
            low += 1
        high = (high << 16) | low
    return high
