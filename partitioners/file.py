"""The saved partition of an earlier run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .base import Features, FloatArray, IntArray, Partitioner
from .storage import load


@dataclass(frozen=True)
class FilePartitioner(Partitioner):
    """Use the parts in a `partition.npz` as they are; of the ratios only the number counts.

    Parameters
    ----------
    path : str or Path
        The file that `partitioners.storage.save` wrote into the folder of an earlier run.

    Raises
    ------
    ValueError
        When called, if the file is not a saved partition, or is one for other labels or another number of workers.
    FileNotFoundError
        When called, if the file does not exist.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from echelon.partitioners import FilePartitioner, storage
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     storage.save(Path(folder), [np.array([0, 2]), np.array([1])], [5, 5, 7], [2, 1])
    ...     FilePartitioner(f"{folder}/partition.npz")([5, 5, 7], [1, 1], np.random.default_rng(0))
    [array([0, 2]), array([1])]
    """

    path: str | Path

    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        path, workers = Path(self.path), len(shares)
        parts = load(path, labels)
        if len(parts) != workers:
            raise ValueError(f"partitioner.path {path} was made for {len(parts)} workers; there are {workers} now")
        return parts
