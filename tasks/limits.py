"""Limits on the size of splits, for quick runs."""

import numpy as np
import torch
from numpy.typing import NDArray

from .base import Split


def limited(split: Split, limit: int | None, key: str) -> Split:
    """Keep at most `limit` samples: the first ones of each class, alternating between classes.

    Class counts differ by at most one until a class is exhausted. Within a class, the groups, if any, alternate as
    well. A smaller limit keeps a subset of a larger one. Samples stay in the order of the split.

    Parameters
    ----------
    split : Split
        n samples.
    limit : int or None
        At least 1; None, or a value of at least n, keeps all samples.
    key : str
        Name of the option, for the error message.

    Raises
    ------
    ValueError
        If the limit is below 1.
    """
    if limit is None:
        return split
    if limit < 1:
        raise ValueError(f"{key} must be at least 1; got {limit}")
    if limit >= len(split):
        return split
    labels = split.y.numpy()
    order = np.arange(len(split))
    if split.groups is not None:
        cells = np.unique(np.stack([labels, split.groups.numpy()]), axis=1, return_inverse=True)[1].ravel()
        order = _take_turns(cells)
    order = order[_take_turns(labels[order])]
    return split.subset(torch.from_numpy(np.sort(order[:limit])))


def _take_turns(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order with the first element of each key, then the second of each key, and so on."""
    by_key = np.argsort(keys, kind="stable")
    counts = np.unique(keys, return_counts=True)[1]
    turn = np.empty(len(keys), dtype=np.int64)
    turn[by_key] = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.argsort(turn, kind="stable")
