"""Random shards, whatever the labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import IntArray, check_labels, check_ratios
from .quotas import quotas


@dataclass(frozen=True)
class Iid:
    """Cut one random order of all samples into shards whose sizes follow the ratios to within one sample."""

    def __call__(
        self,
        labels: npt.ArrayLike,
        ratios: Sequence[float],
        rng: np.random.Generator,
        features: npt.ArrayLike | None = None,
    ) -> list[IntArray]:
        """See `partitioners.base.Partitioner`; `features` are not used."""
        samples = len(check_labels(labels))
        sizes = quotas([samples], check_ratios(ratios))[0]
        return [np.sort(part) for part in np.split(rng.permutation(samples), np.cumsum(sizes)[:-1])]
