"""Random parts, regardless of the labels."""

from dataclasses import dataclass

import numpy as np

from .base import Features, FloatArray, IntArray, Partitioner
from .quotas import quotas


@dataclass(frozen=True)
class IidPartitioner(Partitioner):
    """Cut one random order of all samples into parts whose sizes follow the ratios to within one sample.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.partitioners import IidPartitioner
    >>> parts = IidPartitioner()([0] * 6 + [1] * 2, [1, 1, 2], np.random.default_rng(0))
    >>> [len(part) for part in parts]
    [2, 2, 4]
    """

    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        sizes = quotas([len(labels)], shares)[0]
        return [np.sort(part) for part in np.split(rng.permutation(len(labels)), np.cumsum(sizes)[:-1])]
