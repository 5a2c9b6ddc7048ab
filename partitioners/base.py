"""The base class of all partitioners, and the validation of what they are given."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.generic]


class Partitioner(ABC):
    """Divide samples 0..n-1 among workers 0..N-1.

    Every partitioner keeps this contract:

    - the parts are disjoint, and together they hold every sample;
    - each part is an int64 array in ascending order;
    - equal arguments, with an equal state of `rng`, give equal parts;
    - only the proportions of the ratios matter.

    A worker whose share is below one sample may get an empty part, and a class with fewer samples than workers is
    missing from some parts.

    A subclass implements `_partition`; labels, ratios and features are validated here, once.  A subclass that compares
    samples by their features sets `needs_features`; to all others features are not handed on.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.partitioners import Partitioner
    >>> class RoundRobinPartitioner(Partitioner):
    ...     def _partition(self, labels, shares, rng, features):
    ...         return [np.arange(rank, len(labels), len(shares)) for rank in range(len(shares))]
    >>> RoundRobinPartitioner()([0, 0, 1, 1, 1], [1, 1], np.random.default_rng(0))
    [array([0, 2, 4]), array([1, 3])]
    """

    needs_features: ClassVar[bool] = False

    def __call__(
        self,
        labels: npt.ArrayLike,
        ratios: Sequence[float],
        rng: np.random.Generator,
        features: npt.ArrayLike | None = None,
    ) -> list[IntArray]:
        """Return the samples of each worker.

        Parameters
        ----------
        labels : (n,) array of int
            Class of each sample.
        ratios : sequence of N floats
            Capability of each worker: its share of the samples is its ratio over the sum of all ratios.
        rng : numpy.random.Generator
            Source of every random choice.
        features : (n, ...) array, optional
            One row of real numbers per sample; used, and validated, only if `needs_features`.

        Returns
        -------
        list of N int64 arrays
            Sorted sample indices by rank.

        Raises
        ------
        ValueError
            If an argument is out of range; the message names it and gives its value.
        """
        validated, shares = check_labels(labels), check_ratios(ratios)
        self.check_memory(validated, len(shares))
        rows = check_features(features, len(validated)) if self.needs_features else None
        return self._partition(validated, shares, rng, rows)

    def check_memory(self, labels: npt.ArrayLike, num_workers: int) -> None:  # noqa: B027 - most need little
        """Raise ValueError if dividing these samples needs more memory than is free.

        A partitioner that needs much more than the samples' indices overrides it.
        """

    @abstractmethod
    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        """Return the samples of each worker, as the contract of the class asks.

        Parameters
        ----------
        labels : (n,) int64 array
            Class of each sample, n > 0.
        shares : (N,) float64 array
            Share of each worker, positive and summing to one.
        rng : numpy.random.Generator
        features : (n, d) array of finite real numbers, or None
            None unless `needs_features`.

        Returns
        -------
        list of N sorted int64 arrays
        """


def check_labels(labels: npt.ArrayLike) -> IntArray:
    """Return `labels` as a one-dimensional int64 array, or raise ValueError."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"labels must be one class per sample, shape (n,) with n > 0; got shape {array.shape}")
    if array.dtype.kind not in "iub":
        raise ValueError(f"labels must be integers; got dtype {array.dtype}")
    return array.astype(np.int64)


def check_ratios(ratios: Sequence[float]) -> FloatArray:
    """Return `ratios` as shares that sum to one, or raise ValueError."""
    array = np.asarray(ratios, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"partitioner.ratios must be one number per worker; got shape {array.shape}")
    for rank, ratio in enumerate(array):
        if not (np.isfinite(ratio) and ratio > 0):
            raise ValueError(f"partitioner.ratios[{rank}] must be positive and finite; got {ratio}")
    return np.asarray(array / array.max() / (array / array.max()).sum(), dtype=np.float64)


def check_features(features: npt.ArrayLike | None, samples: int) -> Features:
    """Return `features` as (samples, d) without copying them, or raise ValueError."""
    if features is None:
        raise ValueError(
            "features are needed to compare samples: pass an (n, ...) array such as the raw pixels; got None"
        )
    array = np.asarray(features)
    if array.ndim < 1 or len(array) != samples:
        raise ValueError(f"features must have one row per label ({samples}); got shape {array.shape}")
    if array.dtype.kind not in "iubf":
        raise ValueError(f"features must be real numbers; got dtype {array.dtype}")
    array = array.reshape(samples, -1)
    if array.shape[1] == 0:
        raise ValueError(f"features must have at least one column; got shape {array.shape}")
    if array.dtype.kind == "f":
        for start in range(0, samples, 4096):  # in slices: a mask of all rows would cost as much memory as the data
            finite = np.isfinite(array[start : start + 4096]).all(axis=1)
            if not finite.all():
                raise ValueError(f"features must be finite; sample {start + int(finite.argmin())} has NaN or infinity")
    return array


def centred(features: Features, centre: FloatArray) -> npt.NDArray[np.float32]:
    """Return `features`, (n, d), less `centre`, (d,), as float32.

    The difference is taken in float64: float32 alone would round away what distinguishes samples with a large common
    offset, such as time stamps.
    """
    differences = np.empty(features.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for float32 is reported by the caller
        np.subtract(features, centre, out=differences, casting="unsafe", dtype=np.float64)
    return differences
