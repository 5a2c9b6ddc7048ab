"""Whole groups of samples, such as a patient's record, stay with one worker."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import Features, FloatArray, IntArray, Partitioner


@dataclass(frozen=True)
class ByGroupPartitioner(Partitioner):
    """Assign whole groups to workers so that sizes come as close to the ratios as moves and swaps can bring them.

    Largest group first (ties: lowest group), each to the worker furthest below its share (ties: lowest rank); then,
    while it lowers the sum of squared size errors, one group is moved or two are swapped.  Sizes are not guaranteed to
    within one sample.  Nothing is drawn at random, and labels count only in number.

    Parameters
    ----------
    groups : (n,) array
        Group of each sample: numbers or strings.

    Raises
    ------
    ValueError
        When called, if the groups do not match the labels in length, or are fewer than the workers.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.partitioners import ByGroupPartitioner
    >>> partitioner = ByGroupPartitioner(["ann", "ann", "ben", "cho", "cho", "cho"])
    >>> partitioner([0, 1, 0, 0, 1, 1], [1, 1], np.random.default_rng(0))
    [array([3, 4, 5]), array([0, 1, 2])]
    """

    groups: npt.ArrayLike

    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        samples, groups = len(labels), np.asarray(self.groups)
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
        Samples of each group.
    targets : (N,) array
        Samples wanted by each owner.

    Returns
    -------
    (G,) int64 array of ranks
    """
    owner = np.empty(len(sizes), dtype=np.int64)
    deficits = targets.copy()
    for group in np.argsort(-sizes, kind="stable"):
        owner[group] = rank = int(deficits.argmax())
        deficits[rank] -= sizes[group]
    while any(_exchange(sizes, owner, deficits, a, b) for a in range(len(targets)) for b in range(a)):
        pass
    return owner


def _exchange(sizes: IntArray, owner: IntArray, deficits: FloatArray, a: int, b: int) -> bool:
    """Make the best move or swap between workers a and b, in place; return whether one lowers the error."""
    groups_a, groups_b = np.flatnonzero(owner == a), np.flatnonzero(owner == b)
    sizes_a, sizes_b = np.append(sizes[groups_a], 0), np.append(sizes[groups_b], 0)  # the last: no group
    transfer = (deficits[b] - deficits[a]) / 2  # net number of samples that should go from a to b
    order = np.argsort(sizes_b, kind="stable")
    position = np.searchsorted(sizes_b[order], sizes_a - transfer)
    nearest = np.stack([order[np.maximum(position - 1, 0)], order[np.minimum(position, len(sizes_b) - 1)]])
    errors = np.abs(sizes_a - sizes_b[nearest] - transfer)
    side, i = np.unravel_index(int(errors.argmin()), errors.shape)
    j = int(nearest[side, i])
    if errors[side, i] >= abs(transfer) - 1e-9:
        return False
    owner[groups_a[i : i + 1]], owner[groups_b[j : j + 1]] = b, a  # empty slices where no group is moved
    deficits[a] += sizes_a[i] - sizes_b[j]
    deficits[b] -= sizes_a[i] - sizes_b[j]
    return True
