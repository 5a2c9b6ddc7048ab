"""Random parts that all have the class proportions of the whole."""

from dataclasses import dataclass

import numpy as np

from .base import Features, FloatArray, IntArray, Partitioner
from .quotas import quotas


@dataclass(frozen=True)
class StratifiedPartitioner(Partitioner):
    """Divide each class at random; every class of every worker, and its total, is within one sample of its share.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.partitioners import StratifiedPartitioner
    >>> labels = np.array([0] * 8 + [1] * 4)
    >>> parts = StratifiedPartitioner()(labels, [1, 3], np.random.default_rng(0))
    >>> [np.bincount(labels[part]).tolist() for part in parts]
    [[2, 1], [6, 3]]
    """

    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        classes, counts = np.unique(labels, return_counts=True)
        return deal(labels, classes, quotas(counts, shares), rng)


def deal(labels: IntArray, classes: IntArray, table: IntArray, rng: np.random.Generator) -> list[IntArray]:
    """Give each worker its number of randomly chosen samples of each class.

    Parameters
    ----------
    labels : (n,) int64 array
        Class of each sample.
    classes : (L,) int64 array
        Classes in the order of the rows of `table`.
    table : (L, N) int64 array
        Samples per class and worker; rows sum to the class sizes.
    rng : numpy.random.Generator
        Source of the random order within each class.

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
