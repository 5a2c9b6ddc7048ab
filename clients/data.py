"""Training data of a worker: any object that returns mini-batches by index."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

Batch = tuple[torch.Tensor, torch.Tensor]


class IndexedData(Protocol):
    """A worker's samples."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def batch(self, indices: torch.Tensor, generator: np.random.Generator) -> Batch:
        """Return inputs and labels of the given samples; ``generator`` is for augmentation."""


class TensorData:
    """Inputs and labels in memory.

    Parameters
    ----------
    x, y : tensor or ndarray, shapes (n, ...) and (n,)
        Inputs and labels.
    """

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = torch.as_tensor(x), torch.as_tensor(y)
        if len(self.x) != len(self.y):
            raise ValueError(f"inputs and labels must have the same length; got {len(self.x)} and {len(self.y)}")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.y)

    def batch(self, indices: torch.Tensor, generator: np.random.Generator) -> Batch:
        """Return the given samples."""
        return self.x[indices], self.y[indices]


class DatasetData:
    """A torch map-style dataset of (input, label) pairs."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def batch(self, indices: torch.Tensor, generator: np.random.Generator) -> Batch:
        """Return the given samples, collated as torch's DataLoader does."""
        x, y = default_collate([self.dataset[i] for i in indices.tolist()])
        return x, y


def as_indexed(data: Any) -> IndexedData:
    """Convert the result of ``load_data``: IndexedData, an (inputs, labels) pair, or a torch dataset.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if hasattr(data, "batch") and hasattr(data, "__len__"):
        indexed: IndexedData = data
        return indexed
    if isinstance(data, Sequence) and len(data) == 2:
        return TensorData(*data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return DatasetData(data)
    raise TypeError(
        f"load_data must return (inputs, labels), a torch dataset or an object with batch() and len(); got {type(data)}"
    )
