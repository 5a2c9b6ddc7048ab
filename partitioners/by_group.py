"""Whole groups of samples, such as a patient's record, stay with one worker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import FloatArray, IntArray, check_labels, check_ratios


@dataclass(frozen=True)
class ByGroup:
    """Assign whole groups to workers so that sizes come as close to the ratios as moves and swaps can bring them.

    Largest group first (ties: lowest group), each to the worker that lacks most (ties: lowest rank); then, while it
    lowers the sum of squared size errors, one group is moved or two are swapped.  Sizes cannot be promised to within
    one sample.  Nothing is drawn at random.

    Parameters
    ----------
    groups : (n,) array
        Group of each sample: numbers or strings.
    """

    groups: npt.ArrayLike

    def __call__(
        self,
        labels: npt.ArrayLike,
        ratios: Sequence[float],
        rng: np.random.Generator,
        features: npt.ArrayLike | None = None,
    ) -> list[IntArray]:
        """See `partitioners.base.Partitioner`; `rng` and `features` are not used.

        Raises
        ------
        ValueError
            Also if the groups do not match the labels in length, or are fewer than the workers.
        """
        samples, shares = len(check_labels(labels)), check_ratios(ratios)
        groups = np.asarray(self.groups)
        if groups.shape != (samples,):
            raise ValueError(f"partitioner.groups must be one per label ({samples}); got shape {groups.shape}")
        _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        if len(sizes) < len(shares):
            raise ValueError(
                f"partitioner.groups must be at least as many as the {len(shares)} workers; got {len(sizes)}"
            )
        owner = assign(sizes, samples * shares)
        return [np.flatnonzero(owner[group_of] == rank) for rank in range(len(shares))]


def assign(sizes: IntArray, targets: FloatArray) -> IntArray:
    """Return the owner of each group so that the owners' total sizes are near their targets.

    Parameters
    ----------
    sizes : (G,) int64 array
    targets : (N,) array

    Returns
    -------
    (G,) int64 array of ranks
    """
    owner = np.empty(len(sizes), dtype=np.int64)
    lacking = targets.copy()
    for group in np.argsort(-sizes, kind="stable"):
        owner[group] = rank = int(lacking.argmax())
        lacking[rank] -= sizes[group]
    while any(_exchange(sizes, owner, lacking, a, b) for a in range(len(targets)) for b in range(a)):
        pass
    return owner


def _exchange(sizes: IntArray, owner: IntArray, lacking: FloatArray, a: int, b: int) -> bool:
    """Make the move or swap between workers a and b that evens them out best, if one does (in place)."""
    give, take = np.flatnonzero(owner == a), np.flatnonzero(owner == b)
    given, taken = np.append(sizes[give], 0), np.append(sizes[take], 0)  # the last: give, or take, nothing
    wanted = (lacking[b] - lacking[a]) / 2  # samples that should go from a to b on balance
    order = np.argsort(taken, kind="stable")
    place = np.searchsorted(taken[order], given - wanted)
    near = np.stack([order[np.maximum(place - 1, 0)], order[np.minimum(place, len(taken) - 1)]])
    miss = np.abs(given - taken[near] - wanted)
    side, i = np.unravel_index(int(miss.argmin()), miss.shape)
    j = int(near[side, i])
    if miss[side, i] >= abs(wanted) - 1e-9:
        return False
    owner[give[i : i + 1]], owner[take[j : j + 1]] = b, a
    lacking[a] += given[i] - taken[j]
    lacking[b] -= given[i] - taken[j]
    return True
