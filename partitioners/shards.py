"""Label-sorted shards: each worker holds a few classes only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from echelon.core import memory

from .base import Features, FloatArray, IntArray, Partitioner
from .quotas import quotas

_BYTES_PER_SHARD = 150  # measured: 190


@dataclass(frozen=True)
class ShardsPartitioner(Partitioner):
    """Sort by label, cut into `classes_per_worker` shards per worker, and deal the shards at random.

    The length of a worker's shards follows its ratio, so that sizes follow the ratios to within one sample.  A shard
    that lies across the border of two classes holds both, so a worker can have a few more classes than shards.

    Parameters
    ----------
    classes_per_worker : int
        Shards per worker, at least 1.

    Raises
    ------
    ValueError
        If `classes_per_worker` is below 1; when called, if the shards do not fit into the free memory.

    References
    ----------
    McMahan et al. 2017, arXiv 1602.05629, section 3 (there 2 shards each, all of one length).

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.partitioners import ShardsPartitioner
    >>> labels = np.repeat(np.arange(6), 10)
    >>> parts = ShardsPartitioner(classes_per_worker=2)(labels, [1, 1, 1], np.random.default_rng(0))
    >>> [len(np.unique(labels[part])) for part in parts]
    [2, 2, 2]
    """

    classes_per_worker: int = 2

    def __post_init__(self) -> None:
        if self.classes_per_worker < 1:
            raise ValueError(f"partitioner.classes_per_worker must be at least 1; got {self.classes_per_worker}")

    def check_memory(self, labels: npt.ArrayLike, num_workers: int) -> None:
        """Raise ValueError if the shards, each an array of its own, do not fit into the free memory."""
        shards = num_workers * self.classes_per_worker
        subject = f"partitioner.classes_per_worker={self.classes_per_worker} for workers={num_workers}"
        memory.require(subject, {"shards": _BYTES_PER_SHARD * shards}, "lower them")

    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        equal = np.full(self.classes_per_worker, 1 / self.classes_per_worker)
        lengths_by_rank = quotas(quotas([len(labels)], shares)[0], equal).ravel()
        owners = rng.permutation(np.repeat(np.arange(len(shares)), self.classes_per_worker))
        order = rng.permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        by_owner = np.argsort(owners, kind="stable")  # positions of rank 0's shards along the sorted samples, ...
        lengths = np.empty_like(lengths_by_rank)
        lengths[by_owner] = lengths_by_rank
        pieces = np.split(order, np.cumsum(lengths)[:-1])
        positions = by_owner.reshape(len(shares), self.classes_per_worker)
        return [np.sort(np.concatenate([pieces[position] for position in own])) for own in positions]
