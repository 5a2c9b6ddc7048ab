"""Training data of a worker: any object that returns mini-batches by index."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from .errors import UserCodeError, naming

# A tensor, or tuples and dicts of such.
Batch = Any

_MOST_STREAMED = 1 << 24
_UNUSED = np.random.default_rng(0)


@runtime_checkable
class IndexedData(Protocol):
    """A worker's samples.

    An attribute ``pure_source`` may promise that a mini-batch depends on the indices alone, row by row, and draws
    nothing at random; objects with equal sources return equal mini-batches. Workers that are trained together then
    read theirs at once.
    """

    def __len__(self) -> int:
        """Return the number of samples."""

    def batch(self, indices: Tensor, generator: np.random.Generator) -> Batch:
        """Return the mini-batch of the given samples; ``generator`` is for augmentation."""


class TensorData:
    """Samples in memory: tensors or arrays with one row per sample, in tuples or dicts.

    Parameters
    ----------
    *values : tensor, ndarray, or tuples and dicts of such
        Inputs and labels, say; a mini-batch is a tuple of as many, or the one that there is.

    Raises
    ------
    UserCodeError
        If they have unequal numbers of rows.

    Examples
    --------
    >>> import numpy as np
    >>> data = TensorData(np.zeros((4, 2), np.float32), np.arange(4))
    >>> data.batch(torch.tensor([3, 1]), np.random.default_rng(0))[1]
    tensor([3, 1])
    """

    def __init__(self, *values: Any) -> None:
        self.values = map_tensors(torch.as_tensor, values)
        lengths = [len(tensor) for tensor in _tensors(self.values)]
        if len(set(lengths)) != 1:
            raise UserCodeError(f"load_data must return values of the same length; got {', '.join(map(str, lengths))}")
        self._length = lengths[0]

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._length

    @property
    def pure_source(self) -> Hashable:
        """Where the values lie; None for a subclass, which may do anything."""
        if type(self) is not TensorData:
            return None
        return tuple((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in _tensors(self.values))

    def batch(self, indices: Tensor, generator: np.random.Generator) -> Batch:
        """Return the given samples."""
        # Contiguous, because models may use view: indexing keeps the strides of, say, images in channels-last order.
        rows = map_tensors(lambda tensor: tensor[indices].contiguous(), self.values)
        return rows if len(rows) > 1 else rows[0]


class DatasetData:
    """A map-style dataset: anything with ``len()`` and samples by index."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] = default_collate) -> None:
        self.dataset = dataset
        self._collate = collate

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def batch(self, indices: Tensor, generator: np.random.Generator) -> Batch:
        """Return the given samples, collated as torch's DataLoader does."""
        return self._collate([self.dataset[i] for i in indices.tolist()])


class HuggingFaceData:
    """A Hugging Face dataset; a mini-batch is a dict of its columns."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset if dataset.format["type"] else dataset.with_format("torch")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def batch(self, indices: Tensor, generator: np.random.Generator) -> Batch:
        """Return the given samples, read in one go."""
        columns = self.dataset[indices.tolist()]
        try:
            return {name: torch.as_tensor(values) for name, values in columns.items()}
        except (TypeError, ValueError):  # rows of unequal length, texts
            raise UserCodeError(
                "load_data returns a Hugging Face dataset with columns that are no tensors of equal shape: map it to "
                f"numbers, pad it, and keep those columns (set_format(columns=...)); it has {', '.join(columns)}"
            ) from None


class LoaderData:
    """A DataLoader's dataset, collated by it and read ahead by its worker processes, in the order of the run."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._order = _Order()
        self.dataset: Any = loader.dataset
        self._collate = loader.collate_fn
        self._ahead: DataLoader[Any] | None = None
        if loader.num_workers:
            self._ahead = DataLoader(
                loader.dataset,
                batch_sampler=self._order,
                num_workers=loader.num_workers,
                prefetch_factor=loader.prefetch_factor,
                collate_fn=loader.collate_fn,
                worker_init_fn=loader.worker_init_fn,
                multiprocessing_context=loader.multiprocessing_context,
                persistent_workers=loader.persistent_workers,
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def batch(self, indices: Tensor, generator: np.random.Generator) -> Batch:
        """Return the given samples."""
        return self._collate([self.dataset[i] for i in indices.tolist()])

    def batches(self, pieces: Sequence[Tensor], generator: np.random.Generator) -> Iterator[Batch]:
        """Yield the mini-batches of the given samples, read ahead."""
        if self._ahead is None:
            yield from (self.batch(indices, generator) for indices in pieces)
            return
        self._order.pieces = [indices.tolist() for indices in pieces]
        yield from self._ahead


class _Order:
    """The batch sampler of a loader: the mini-batches of the round."""

    def __init__(self) -> None:
        self.pieces: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)


def as_indexed(data: Any) -> IndexedData:
    """Convert the result of ``load_data``.

    Parameters
    ----------
    data : object
        IndexedData, a pair (inputs, labels) or a dict of tensors, a torch or Hugging Face dataset, a sequence of
        samples, a DataLoader (its samples in the run's order, its worker processes), or an iterable dataset (read into
        memory once).

    Raises
    ------
    UserCodeError
        If it is none of these, or has a (train, test) pair in it.
    """
    if hasattr(data, "column_names") and hasattr(data, "with_format") and hasattr(data, "__len__"):
        return HuggingFaceData(data)
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            return as_indexed(data.dataset)
        return LoaderData(data)
    if isinstance(data, IndexedData):
        return data
    if isinstance(data, Mapping) and data and all(_is_values(value) for value in data.values()):
        return TensorData(dict(data))
    if isinstance(data, tuple | list) and _is_of_tensors(data):
        return TensorData(*data)
    if isinstance(data, IterableDataset):
        return DatasetData(_read(data))
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes | Mapping):
        return DatasetData(data)
    raise UserCodeError(
        "load_data must return (inputs, labels), a dict of tensors, a dataset, a DataLoader, or an object with batch() "
        f"and len(); got {type(data).__name__}"
    )


def batches(
    data: IndexedData, pieces: Sequence[Tensor], make_generator: Callable[[], np.random.Generator]
) -> Iterator[Batch]:
    """Yield the mini-batches of the given samples, read ahead where the data can do that.

    A generator is made for data that may augment its samples: to make one takes longer than to read a mini-batch.
    """
    generator = _UNUSED if type(data) is TensorData else make_generator()
    if isinstance(data, LoaderData):
        read = data.batches(pieces, generator)
    else:
        read = (data.batch(indices, generator) for indices in pieces)
    for _ in pieces:
        with naming("reading the samples that load_data returns"):
            batch = next(read)
        yield batch


def map_tensors(change: Callable[[Any], Any], batch: Batch) -> Batch:
    """Return a mini-batch with ``change`` applied to each tensor in its tuples, lists and dicts."""
    if isinstance(batch, Mapping):
        return {name: map_tensors(change, value) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(change, value) for value in batch))
    if isinstance(batch, tuple | list):
        return tuple(map_tensors(change, value) for value in batch)
    return change(batch)


def stack(found: Sequence[Batch]) -> Batch:
    """Return mini-batches of the same structure as one, with their tensors stacked.

    Raises
    ------
    ValueError
        If structures or shapes differ, or a value is not a tensor.
    """
    columns: list[list[Tensor]] = [_tensors(batch) for batch in found]
    if any(not isinstance(value, Tensor) for column in columns for value in column):
        raise ValueError("mini-batches hold values that are not tensors")
    if len({_structure(batch) for batch in found}) > 1:
        raise ValueError("the mini-batches of the workers differ in shape")
    values = iter([torch.stack(same) for same in zip(*columns, strict=True)])
    return map_tensors(lambda _: next(values), found[0])


def _structure(batch: Batch) -> str:
    return repr(map_tensors(lambda value: (tuple(value.shape), value.dtype), batch))


def to_device(batch: Batch, device: str) -> Batch:
    """Return a mini-batch with its tensors on a device; other values as they are."""
    return map_tensors(lambda value: value.to(device) if hasattr(value, "to") else value, batch)


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(found.append, batch)
    return found


def _is_of_tensors(data: Sequence[Any]) -> bool:
    """Return whether a tuple, or a list of two, holds one row per sample in each place; refuse data sets in it."""
    if any(isinstance(part, DataLoader | Dataset) or hasattr(part, "column_names") for part in data):
        raise UserCodeError(
            f"load_data must return the data to train on; got {len(data)} values, the first a "
            f"{type(data[0]).__name__}, probably for training and testing: return that one"
        )
    if not data or not all(map(_is_values, data)):
        return False
    return isinstance(data, tuple) or (len(data) == 2 and len(data[0]) == len(data[1]))


def _is_values(value: Any) -> bool:
    """Return whether a value holds one row per sample."""
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _read(stream: Iterable[Any]) -> list[Any]:
    samples = list(islice(stream, _MOST_STREAMED))
    if len(samples) == _MOST_STREAMED:
        raise UserCodeError(
            f"load_data returns an iterable dataset of {_MOST_STREAMED} samples or more, which would not fit in "
            "memory: return a dataset with samples by index"
        )
    return samples
