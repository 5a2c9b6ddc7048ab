"""The layout of a run's rows, to and from the arrays of Flower messages."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from echelon.core.layout import Bytes, Layout, ModelParts, Row
from echelon.protocol.expected import Expected
from echelon.protocol.messages import ARRAYS, MOMENTUM, OPTIMIZER, as_ndarray


class ArrayLayout(Layout):
    """The names, shapes and places of a model's arrays.

    Parameters
    ----------
    arrays : ArrayRecord
        The initial model.
    parts, personal
        See :class:`echelon.core.layout.Layout`.

    Attributes
    ----------
    expected : Expected
        The arrays of an honest reply.
    """

    def __init__(self, arrays: ArrayRecord, parts: ModelParts | None = None, personal: Iterable[str] = ()) -> None:
        super().__init__(_Values(arrays), parts, personal)
        records = {ARRAYS: self.sent_bytes, MOMENTUM: self.parameter_bytes, OPTIMIZER: self.optimizer_bytes}
        self.expected = Expected({name: sizes for name, sizes in records.items() if sizes})

    def read(self, arrays: ArrayRecord) -> tuple[Row, Bytes]:
        """Return a model as it has travelled: its row, and the bytes beside it.

        Raises
        ------
        ValueError
            If it has other names than the layout; otherwise as :meth:`echelon.core.layout.Layout.pack`.
        """
        self.check_names(arrays)
        values = _Values(arrays)
        return self.pack(values), self.pack_exact(values)

    def write(self, row: Row, exact: Bytes) -> ArrayRecord:
        """Return what travels of a model."""
        return _record(self.travelling(row, exact))

    def row(self, arrays: ArrayRecord) -> Row:
        """Return the row of a whole model, shape (size,); raises as :meth:`echelon.core.layout.Layout.pack`."""
        return self.pack(_Values(arrays))

    def exact(self, arrays: ArrayRecord) -> Bytes:
        """Return the bytes beside the row of a whole model, shape (exact_size,); raises as :meth:`row`."""
        return self.pack_exact(_Values(arrays))

    def arrays(self, row: Row, exact: Bytes) -> ArrayRecord:
        """Return a whole model, with the names of the initial one."""
        return _record(self.model(row, exact))

    def parameter_row(self, arrays: ArrayRecord) -> Row:
        """Return arrays named as the parameters are as a vector, shape (num_parameters,); raises as :meth:`row`."""
        return self.pack_parameters(_Values(arrays))

    def parameter_arrays(self, row: Row) -> ArrayRecord:
        """Return a vector over the parameters as named arrays."""
        return _record(self.unpack_parameters(row))

    def optimizer_row(self, arrays: ArrayRecord) -> Row:
        """Return the optimiser's state as a vector, shape (optimizer_size,); raises as :meth:`row`."""
        return self.pack_optimizer(_Values(arrays))

    def optimizer_arrays(self, row: Row) -> ArrayRecord:
        """Return a vector of optimiser state as named arrays."""
        return _record(self.unpack_optimizer(row))


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
