"""The layout of a run's rows, to and from the arrays of Flower messages."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from echelon.core.bf16 import from_words, to_words
from echelon.core.layout import Bytes, Layout, ModelParts, Row
from echelon.protocol.expected import Expected
from echelon.protocol.messages import ARRAYS, MOMENTUM, OPTIMIZER, as_array, as_ndarray
from echelon.protocol.rows import SEPARATOR, row_name


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
    differences : bool
        Whether parameters and momentum come back as differences to what was sent.
    """

    differences = False

    def __init__(self, arrays: ArrayRecord, parts: ModelParts | None = None, personal: Iterable[str] = ()) -> None:
        super().__init__(_Values(arrays), parts, personal)
        records = {ARRAYS: self.sent_bytes, MOMENTUM: self.parameter_bytes, OPTIMIZER: self.optimizer_bytes}
        self.expected = Expected({name: sizes for name, sizes in records.items() if sizes})

    def form(self, *, rows: bool, bf16: bool = False) -> "ArrayLayout":
        """Return this layout for workers that take named arrays, or, with ``rows``, a model as one array.

        With ``bf16``, the parameters in such a row are rounded; named arrays never are.
        """
        if not rows:
            return self
        return self._in_words if bf16 else self._in_rows

    @cached_property
    def _in_rows(self) -> "ArrayLayout":
        ambiguous = any(SEPARATOR in name for name in self._sent)
        return self if ambiguous else _RowLayout(self)

    @cached_property
    def _in_words(self) -> "ArrayLayout":
        return _WordLayout(self._in_rows) if isinstance(self._in_rows, _RowLayout) else self._in_rows

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


class _RowLayout(ArrayLayout):
    """A layout whose rows and vectors travel as one array each, and the bytes beside a row as another."""

    def __init__(self, named: ArrayLayout) -> None:
        vars(self).update(vars(named))
        self._row, self._bytes = row_name(self._places), row_name(self._beside)
        parameters = set(self._parameters)
        self._vector = row_name(name for name in self._places if name in parameters)
        sizes = {self._row: 4 * self.size, self._bytes: self.exact_size} if self._beside else {self._row: 4 * self.size}
        records = {ARRAYS: sizes, MOMENTUM: {self._vector: 4 * self.num_parameters}}
        self.expected = Expected({**named.expected.sizes, **records})

    def read(self, arrays: ArrayRecord) -> tuple[Row, Bytes]:
        """Return a model as it has travelled, a view of the message; raises as :meth:`ArrayLayout.read`."""
        if set(arrays) != set(self.expected.sizes[ARRAYS]):
            raise ValueError("the arrays are not the row of the model and the bytes beside it")
        exact: Bytes = np.empty(0, dtype=np.uint8)
        if self._beside:
            exact = _checked(arrays[self._bytes], np.uint8, self.exact_size)
            self._check_exact(exact)
        return self._finite(arrays[self._row], self.size), exact

    def write(self, row: Row, exact: Bytes) -> ArrayRecord:
        """Return what travels of a model."""
        sent = {self._row: as_array(row)}
        return ArrayRecord(sent | {self._bytes: as_array(exact)} if self._beside else sent)

    def parameter_row(self, arrays: ArrayRecord) -> Row:
        """Return a vector over the parameters as it has travelled; raises as :meth:`ArrayLayout.parameter_row`."""
        if set(arrays) != {self._vector}:
            raise ValueError("the arrays are not a vector over the model's parameters")
        return self._finite(arrays[self._vector], self.num_parameters)

    def parameter_arrays(self, row: Row) -> ArrayRecord:
        """Return what travels of a vector over the parameters."""
        return ArrayRecord({self._vector: as_array(row)})

    def _finite(self, array: Array, size: int) -> Row:
        row: Row = _checked(array, np.float32, size)
        self._check_finite(row)
        return row


class _WordLayout(_RowLayout):
    """A layout of rows whose parameters travel in bfloat16: as values to the worker, as differences from it.

    Buffers keep their bits: a variance near 0 to which a rounded difference is added may become negative.
    """

    differences = True

    def __init__(self, rows: _RowLayout) -> None:
        vars(self).update(vars(rows))
        sizes = {**rows.expected.sizes[ARRAYS], self._row: 2 * (2 * self.size - self.num_parameters)}
        records = {ARRAYS: sizes, MOMENTUM: {self._vector: 2 * self.num_parameters}}
        self.expected = Expected({**rows.expected.sizes, **records})

    def write(self, row: Row, exact: Bytes) -> ArrayRecord:
        """Return what travels of a model."""
        sent = super().write(row, exact)
        sent[self._row] = as_array(to_words(row, self.num_parameters))
        return sent

    def parameter_arrays(self, row: Row) -> ArrayRecord:
        """Return what travels of a vector over the parameters."""
        return ArrayRecord({self._vector: as_array(to_words(row, self.num_parameters))})

    def _finite(self, array: Array, size: int) -> Row:
        words = _checked(array, np.uint16, 2 * size - self.num_parameters)
        row: Row = from_words(words, self.num_parameters)
        self._check_finite(row)
        return row


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


def _checked(array: Array, dtype: type[np.generic], size: int) -> NDArray[Any]:
    values = as_ndarray(array)
    if values.dtype != dtype or values.shape != (size,):
        wanted = f"{np.dtype(dtype)} ({size},)"
        raise ValueError(f"a row of the model must be {wanted}; got {values.dtype} {values.shape}")
    return values


def _record(values: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: as_array(value) for name, value in values.items()})
