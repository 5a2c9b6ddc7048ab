"""bfloat16 in 16-bit words: numpy has no such type, and ``.npy`` arrays cannot name one."""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint16]
Floats = NDArray[np.float32]

UNIT_ROUNDOFF = 2.0**-8
"""Largest relative error of a rounded value, but for those below 1e-38 and those that become infinite, near 3.4e38."""

_NAN = 0x7FC0


def shorten(values: Floats) -> Words:
    """Return float32 values rounded to the nearest bfloat16, ties to even, as words.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.core.bf16 import lengthen, shorten
    >>> lengthen(shorten(np.array([1.0, 1.003, 1.01], dtype=np.float32)))
    array([1.       , 1.       , 1.0078125], dtype=float32)
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits  # wraps around only for some NaN
    rounded >>= 16
    words = rounded.astype(np.uint16)
    words[np.isnan(values)] = _NAN
    return words


def lengthen(words: Words) -> Floats:
    """Return bfloat16 values, given as words, in float32; this is exact."""
    bits = words.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def to_words(row: Floats, count: int) -> Words:
    """Return a row whose first ``count`` values are rounded, and whose others keep their bits in two words each."""
    if count == len(row):
        return shorten(row)
    return np.concatenate([shorten(row[:count]), np.ascontiguousarray(row[count:]).view(np.uint16)])


def from_words(words: Words, count: int) -> Floats:
    """Return the row that :func:`to_words` was given, with ``count`` values rounded."""
    if count == len(words):
        return lengthen(words)
    return np.concatenate([lengthen(words[:count]), words[count:].copy().view(np.float32)])
