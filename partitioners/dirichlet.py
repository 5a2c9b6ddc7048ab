"""Label-skewed shards: each worker has its own random mix of classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .base import FloatArray, IntArray, check_labels, check_ratios
from .quotas import round_table
from .stratified import deal

_SWEEPS = 1000  # of proportional fitting; what is still missing then is filled in evenly
_FLOOR = 1e-12  # keeps a class that no worker drew in the table, so that fitting can reach its size


@dataclass(frozen=True)
class Dirichlet:
    """Give each worker a class mix q ~ Dirichlet(alpha L p), p the class proportions of the whole and L their number.

    With balanced classes q ~ Dirichlet(alpha, ..., alpha): near 0 a worker holds a single class, towards infinity it
    has the proportions of the whole.  Sizes nevertheless follow the ratios to within one sample, so that label skew can
    be studied apart from size: the table of sizes times mixes is brought to the class sizes by iterative proportional
    fitting before it is rounded.  (Splitting every class by its own Dirichlet draw, as is often done, leaves the sizes
    to chance.)

    Parameters
    ----------
    alpha : float
        Concentration per class, positive.

    References
    ----------
    Hsu, Qi and Brown 2019, arXiv 1909.06335 (mixes per worker); Deming and Stephan 1940 (the fitting).
    """

    alpha: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"partitioner.alpha must be positive and finite; got {self.alpha}")

    def __call__(
        self,
        labels: npt.ArrayLike,
        ratios: Sequence[float],
        rng: np.random.Generator,
        features: npt.ArrayLike | None = None,
    ) -> list[IntArray]:
        """See `partitioners.base.Partitioner`; `features` are not used."""
        classes, counts = np.unique(checked := check_labels(labels), return_counts=True)
        shares = check_ratios(ratios)
        mixes = rng.dirichlet(self.alpha * len(counts) * counts / counts.sum(), size=len(shares))
        return deal(checked, classes, round_table(fit(mixes.T, counts, counts.sum() * shares)), rng)


def fit(table: FloatArray, rows: npt.ArrayLike, columns: npt.ArrayLike) -> FloatArray:
    """Scale the rows and columns of a non-negative table until it has the given row and column sums.

    Parameters
    ----------
    table : (L, N) array
    rows, columns : (L,) and (N,) arrays of positive numbers with equal sums

    Returns
    -------
    (L, N) float64 array
        Its sums are those asked for, exactly up to rounding.
    """
    want, have = np.asarray(rows, dtype=np.float64)[:, None], np.asarray(columns, dtype=np.float64)
    fitted = table + _FLOOR
    for _ in range(_SWEEPS):
        fitted = fitted * (want / fitted.sum(axis=1, keepdims=True))
        fitted = fitted * (have / fitted.sum(axis=0))
    fitted = fitted * np.minimum(1.0, want / fitted.sum(axis=1, keepdims=True))
    row_gap, column_gap = want - fitted.sum(axis=1, keepdims=True), np.maximum(have - fitted.sum(axis=0), 0.0)
    total = column_gap.sum()
    return np.asarray(fitted + row_gap * column_gap / total if total > 0 else fitted)
