"""Label-skewed parts: each worker has its own random mix of classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import Features, FloatArray, IntArray, Partitioner
from .quotas import round_table
from .stratified import deal

_SWEEPS = 1000  # of proportional fitting; what is still missing then is filled in evenly
_LARGEST = 1e300  # a total concentration beyond which the draws overflow; the mixes are constant long before
_FLOOR = 1e-12  # keeps a class that no worker drew in the table, so that fitting can reach its size


@dataclass(frozen=True)
class DirichletPartitioner(Partitioner):
    """Give each worker a class mix q ~ Dirichlet(alpha L p), p the class proportions of the whole and L their number.

    With balanced classes q ~ Dirichlet(alpha, ..., alpha): for alpha near 0 a worker holds a single class, for large
    alpha it has the proportions of the whole.  Sizes follow the ratios to within one sample whatever the mixes, so that
    label skew can be studied apart from size: the table of sizes times mixes is brought to the class sizes by iterative
    proportional fitting before it is rounded.  (The common variant, which splits every class by a Dirichlet draw of its
    own, leaves the sizes to chance.)

    Parameters
    ----------
    alpha : float
        Concentration per class, positive.

    Raises
    ------
    ValueError
        If `alpha` is not positive and finite.

    References
    ----------
    Hsu, Qi and Brown 2019, arXiv 1909.06335 (mixes per worker); Deming and Stephan 1940 (the fitting).

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.partitioners import DirichletPartitioner
    >>> parts = DirichletPartitioner(alpha=0.3)([0, 1] * 10, [1, 1, 2], np.random.default_rng(0))
    >>> [len(part) for part in parts]
    [5, 5, 10]
    """

    alpha: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"partitioner.alpha must be positive and finite; got {self.alpha}")

    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        classes, counts = np.unique(labels, return_counts=True)
        alpha = min(self.alpha, _LARGEST / len(counts))
        mixes = rng.dirichlet(alpha * len(counts) * counts / counts.sum(), size=len(shares))
        return deal(labels, classes, round_table(fit(mixes.T, counts, counts.sum() * shares)), rng)


def fit(table: FloatArray, rows: npt.ArrayLike, columns: npt.ArrayLike) -> FloatArray:
    """Scale the rows and columns of a non-negative table until it has the given row and column sums.

    Parameters
    ----------
    table : (L, N) array
    rows, columns : (L,) and (N,) arrays of positive numbers with equal sums

    Returns
    -------
    (L, N) float64 array
        With the given row and column sums, exact up to rounding.
    """
    row_sums, column_sums = np.asarray(rows, dtype=np.float64)[:, None], np.asarray(columns, dtype=np.float64)
    fitted = table + _FLOOR
    for _ in range(_SWEEPS):
        fitted = fitted * (row_sums / fitted.sum(axis=1, keepdims=True))
        fitted = fitted * (column_sums / fitted.sum(axis=0))
    fitted = fitted * np.minimum(1.0, row_sums / fitted.sum(axis=1, keepdims=True))
    row_gap = row_sums - fitted.sum(axis=1, keepdims=True)
    column_gap = np.maximum(column_sums - fitted.sum(axis=0), 0.0)
    total = column_gap.sum()
    return np.asarray(fitted + row_gap * column_gap / total if total > 0 else fitted)
