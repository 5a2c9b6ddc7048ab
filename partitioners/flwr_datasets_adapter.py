"""An adapter that makes any partitioner one of Flower Datasets (the extra `datasets`)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .base import IntArray, Partitioner

try:
    from flwr_datasets import partitioner as flower
except ImportError as error:
    raise ImportError('Flower Datasets is not installed: pip install "flwr-echelon[datasets]"') from error

from datasets import Dataset


class FlowerDatasetsPartitioner(flower.Partitioner):  # type: ignore[misc]  # the library is untyped
    """Partition a `datasets.Dataset` with a `Partitioner`.

    Parameters
    ----------
    partitioner : Partitioner
        Divides the samples, for example `SubmodularPartitioner()`.
    ratios : sequence of N floats
        Capability of the worker of each partition; equal numbers for equal sizes.
    partition_by : str
        Column of the labels: numbers or strings.
    features_from : str, optional
        Column of the features: images or numbers, all of one shape.  Required if the partitioner's `needs_features`.
    seed : int
        Seed of the partitioner's random choices.

    Examples
    --------
    >>> from datasets import Dataset
    >>> from echelon.partitioners import SubmodularPartitioner
    >>> from echelon.partitioners.flwr_datasets_adapter import FlowerDatasetsPartitioner
    >>> partitioner = FlowerDatasetsPartitioner(
    ...     SubmodularPartitioner(), [1, 1], partition_by="label", features_from="x"
    ... )
    >>> partitioner.dataset = Dataset.from_dict({"label": ["a"] * 4, "x": [[0.0], [1.0], [8.0], [10.0]]})
    >>> partitioner.load_partition(0)["x"][:]
    [[0.0], [8.0]]
    """

    def __init__(
        self,
        partitioner: Partitioner,
        ratios: Sequence[float],
        *,
        partition_by: str,
        features_from: str | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self._partitioner = partitioner
        self._ratios = list(ratios)
        self._partition_by = partition_by
        self._features_from = features_from
        self._seed = seed
        self._parts: list[IntArray] | None = None

    @property
    def num_partitions(self) -> int:
        """Number of partitions, one for each ratio."""
        return len(self._ratios)

    def load_partition(self, partition_id: int) -> Dataset:
        """Return the rows of one partition; the first call partitions the dataset.

        Parameters
        ----------
        partition_id : int
            In [0, num_partitions).

        Returns
        -------
        datasets.Dataset

        Raises
        ------
        ValueError
            If there is no such partition or column, or the partitioner rejects the data.
        """
        if not 0 <= partition_id < self.num_partitions:
            raise ValueError(f"partition_id must lie in [0, {self.num_partitions}); got {partition_id}")
        if self._parts is None:
            _, labels = np.unique(self._column(self._partition_by), return_inverse=True)
            features = None if self._features_from is None else self._column(self._features_from)
            self._parts = self._partitioner(labels, self._ratios, np.random.default_rng(self._seed), features)
        return self.dataset.select(self._parts[partition_id])

    def _column(self, name: str) -> npt.NDArray[np.generic]:
        if name not in self.dataset.column_names:
            raise ValueError(f"the dataset must have a column {name!r}; it has {', '.join(self.dataset.column_names)}")
        return np.asarray(self.dataset.select_columns([name]).with_format("numpy")[:][name])
