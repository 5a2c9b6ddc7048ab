"""Random shards that all have the class proportions of the whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import IntArray, check_labels, check_ratios
from .quotas import quotas


@dataclass(frozen=True)
class Stratified:
    """Divide each class at random; every class of every worker, and its total, is within one sample of its share."""

    def __call__(
        self,
        labels: npt.ArrayLike,
        ratios: Sequence[float],
        rng: np.random.Generator,
        features: npt.ArrayLike | None = None,
    ) -> list[IntArray]:
        """See `partitioners.base.Partitioner`; `features` are not used."""
        classes, counts = np.unique(checked := check_labels(labels), return_counts=True)
        return deal(checked, classes, quotas(counts, check_ratios(ratios)), rng)


def deal(labels: IntArray, classes: IntArray, table: IntArray, rng: np.random.Generator) -> list[IntArray]:
    """Give each worker its number of randomly chosen samples of each class.

    Parameters
    ----------
    labels : (n,) int64 array
    classes : (L,) int64 array
        The classes, in the order of the rows of `table`.
    table : (L, N) int64 array
        Samples per class and worker; rows sum to the class sizes.
    rng : numpy.random.Generator

    Returns
    -------
    list of N sorted int64 arrays
    """
    pieces: list[list[IntArray]] = [[] for _ in range(table.shape[1])]
    for label, row in zip(classes, table, strict=True):
        order = rng.permutation(np.flatnonzero(labels == label))
        for rank, piece in enumerate(np.split(order, np.cumsum(row)[:-1])):
            pieces[rank].append(piece)
    return [np.sort(np.concatenate(piece)) for piece in pieces]
