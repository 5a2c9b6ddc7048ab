"""The layout of a run's rows, to and from the arrays of Flower messages."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from echelon.core.layout import Layout, Row
from echelon.protocol.expected import Expected
from echelon.protocol.messages import ARRAYS, MOMENTUM, as_ndarray


class ArrayLayout(Layout):
    """The names, shapes and places of a model's arrays in a row of float32.

    Parameters
    ----------
    arrays : ArrayRecord
        A model.
    buffers : iterable of str, optional
        See :class:`echelon.core.layout.Layout`.

    Attributes
    ----------
    expected : Expected
        The arrays of an honest reply.
    """

    def __init__(self, arrays: ArrayRecord, buffers: Iterable[str] | None = None) -> None:
        super().__init__(_Values(arrays), buffers)
        sizes = {name: value.nbytes for name, value in self._values.items()}
        self.expected = Expected({ARRAYS: sizes, MOMENTUM: {name: sizes[name] for name in self._parameters}})

    def row(self, arrays: ArrayRecord) -> Row:
        """Return a model as a row, shape (size,); raises as :meth:`echelon.core.layout.Layout.pack`."""
        return self.pack(_Values(arrays))

    def arrays(self, row: Row) -> ArrayRecord:
        """Return a row as a model."""
        return _record(self.unpack(row))

    def parameter_row(self, arrays: ArrayRecord) -> Row:
        """Return arrays named as the parameters are as a vector, shape (num_parameters,); raises as :meth:`row`."""
        return self.pack_parameters(_Values(arrays))

    def parameter_arrays(self, row: Row) -> ArrayRecord:
        """Return a vector over the parameters as named arrays."""
        return _record(self.unpack_parameters(row))


class _Values(Mapping[str, NDArray[Any]]):
    """The arrays of a record as values, each read when it is asked for: names are checked before any is read."""

    def __init__(self, arrays: ArrayRecord) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        return as_ndarray(self._arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _record(values: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in values.items()})
