"""Label-sorted shards: each worker holds a few classes only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import IntArray, check_labels, check_ratios
from .quotas import quotas


@dataclass(frozen=True)
class Shards:
    """Sort by label, cut into `classes_per_worker` shards per worker, and deal the shards at random.

    A worker's shards are as long as its ratio asks, so that sizes follow the ratios to within one sample.  A shard that
    lies across the border of two classes holds both, so a worker can have a few classes more than its shards.

    Parameters
    ----------
    classes_per_worker : int
        Shards per worker, at least 1.

    References
    ----------
    McMahan et al. 2017, arXiv 1602.05629, section 3 (there 2 shards each, all of one length).
    """

    classes_per_worker: int = 2

    def __post_init__(self) -> None:
        if self.classes_per_worker < 1:
            raise ValueError(f"partitioner.classes_per_worker must be at least 1; got {self.classes_per_worker}")

    def __call__(
        self,
        labels: npt.ArrayLike,
        ratios: Sequence[float],
        rng: np.random.Generator,
        features: npt.ArrayLike | None = None,
    ) -> list[IntArray]:
        """See `partitioners.base.Partitioner`; `features` are not used."""
        checked, shares = check_labels(labels), check_ratios(ratios)
        equal = np.full(self.classes_per_worker, 1 / self.classes_per_worker)
        lengths = quotas(quotas([len(checked)], shares)[0], equal).ravel()
        owners = rng.permutation(np.repeat(np.arange(len(shares)), self.classes_per_worker))
        order = rng.permutation(len(checked))
        order = order[np.argsort(checked[order], kind="stable")]
        by_owner = np.argsort(owners, kind="stable")  # the places, along the sorted samples, of rank 0's shards, ...
        placed = np.empty_like(lengths)
        placed[by_owner] = lengths
        pieces = np.split(order, np.cumsum(placed)[:-1])
        places = by_owner.reshape(len(shares), self.classes_per_worker)
        return [np.sort(np.concatenate([pieces[place] for place in mine])) for mine in places]
