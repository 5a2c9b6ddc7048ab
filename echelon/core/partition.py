"""Who trains on what."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Partition:
    """Which samples each worker holds, and whether batches follow the workers' capability.

    Attributes
    ----------
    parts : sequence of int64 ndarray, or None
        Sample indices by rank; None lets every worker use all of its own data.
    batch_ratios : float64 ndarray, shape (N,), or None
        Capability ratios that the workers' batches are proportional to; None for equal batches.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.core.partition import Partition
    >>> Partition([np.arange(0, 60), np.arange(60, 90)], batch_ratios=np.array([2.0, 1.0])).sizes
    array([60, 30])
    """

    parts: Sequence[NDArray[np.int64]] | None = None
    batch_ratios: NDArray[np.float64] | None = None

    @property
    def sizes(self) -> NDArray[np.int64] | None:
        """Samples by rank, shape (N,); None where the workers use their own data."""
        return None if self.parts is None else np.array([len(part) for part in self.parts], dtype=np.int64)
