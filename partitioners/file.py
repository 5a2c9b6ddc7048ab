"""A plan that was made before."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import plan
from .base import IntArray, check_ratios


@dataclass(frozen=True)
class FromFile:
    """Use the parts in a `partition.npz` as they are, whatever the ratios say.

    Parameters
    ----------
    path : str or Path
        The file that `partitioners.plan.save` wrote into an earlier run's folder.
    """

    path: str | Path

    def __call__(
        self,
        labels: npt.ArrayLike,
        ratios: Sequence[float],
        rng: np.random.Generator,
        features: npt.ArrayLike | None = None,
    ) -> list[IntArray]:
        """See `partitioners.base.Partitioner`; of `ratios` only the number counts, `rng` and `features` are not used.

        Raises
        ------
        ValueError
            Also if the file is no plan, or one for other labels or another number of workers.
        """
        parts = plan.load(Path(self.path), labels)
        if len(parts) != (workers := len(check_ratios(ratios))):
            raise ValueError(f"partitioner.path {self.path} was made for {len(parts)} workers; there are {workers} now")
        return parts
