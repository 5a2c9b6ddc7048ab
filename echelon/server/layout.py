"""How a model's named arrays lie in one row: parameters first (they are mixed), then buffers (they are not)."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from echelon.protocol.messages import as_ndarray

Row = NDArray[np.float32]

# torch's names for the state of BatchNorm, which a state_dict does not tell from parameters.
_BUFFER_SUFFIXES = ("running_mean", "running_var", "num_batches_tracked")


class Layout:
    """The names, shapes and places of a model's arrays in a row of float32.

    Parameters
    ----------
    arrays : ArrayRecord
        A model.
    buffers : iterable of str, optional
        Names of the arrays that are not mixed. By default arrays of integers and those named as BatchNorm's buffers.

    Attributes
    ----------
    num_parameters : int
        Mixed columns.
    size : int
        Columns of a row.
    """

    def __init__(self, arrays: ArrayRecord, buffers: Iterable[str] | None = None) -> None:
        self._values = {name: as_ndarray(array) for name, array in arrays.items()}
        named = set(buffers) if buffers is not None else {n for n, v in self._values.items() if _is_buffer(n, v)}
        unknown = named - set(self._values)
        if unknown:
            raise ValueError(f"buffers must name arrays of the model; got {sorted(unknown)[0]}")
        self._order = list(arrays)
        self._parameters = [name for name in arrays if name not in named]
        self._slices: dict[str, slice] = {}
        start = 0
        for name in [*self._parameters, *(name for name in arrays if name in named)]:
            self._slices[name] = slice(start, start + math.prod(self._values[name].shape))
            start = self._slices[name].stop
        self.size = start
        self.num_parameters = sum(math.prod(self._values[name].shape) for name in self._parameters)
        self.num_bytes = sum(value.nbytes for value in self._values.values())

    def row(self, arrays: ArrayRecord) -> Row:
        """Return a model as a row, shape (size,).

        Raises
        ------
        ValueError
            If names, shapes or types differ from the layout's, or a value is not finite.
        """
        if set(arrays) != set(self._slices):
            odd = sorted(set(arrays) ^ set(self._slices))[0]
            raise ValueError(f"array {odd} is missing or unknown")
        row = np.empty(self.size, dtype=np.float32)
        self._fill(row, arrays, self._order)
        return row

    def arrays(self, row: Row) -> ArrayRecord:
        """Return a row as a model."""
        return self._named(row, self._order)

    def parameter_row(self, arrays: ArrayRecord) -> Row:
        """Return the arrays named as the parameters are (a momentum buffer, say) as a vector, shape (num_parameters,).

        Raises
        ------
        ValueError
            As :meth:`row`.
        """
        if set(arrays) != set(self._parameters):
            raise ValueError("the arrays are not named as the model's parameters")
        row = np.empty(self.num_parameters, dtype=np.float32)
        self._fill(row, arrays, self._parameters)
        return row

    def parameter_arrays(self, row: Row) -> ArrayRecord:
        """Return a vector over the parameters as named arrays."""
        return self._named(row, self._parameters)

    def _fill(self, row: Row, arrays: ArrayRecord, names: list[str]) -> None:
        for name in names:
            value, model = as_ndarray(arrays[name]), self._values[name]
            if value.shape != model.shape or value.dtype != model.dtype:
                raise ValueError(f"array {name} must be {model.dtype} {model.shape}; got {value.dtype} {value.shape}")
            row[self._slices[name]] = value.reshape(-1)
        if not np.isfinite(row).all():
            bad = next(name for name in names if not np.isfinite(row[self._slices[name]]).all())
            raise ValueError(f"array {bad} holds values that are not finite")

    def _named(self, row: Row, names: list[str]) -> ArrayRecord:
        def array(name: str) -> Array:
            model = self._values[name]
            return Array(row[self._slices[name]].reshape(model.shape).astype(model.dtype))

        return ArrayRecord({name: array(name) for name in names})


def _is_buffer(name: str, value: NDArray[Any]) -> bool:
    return not np.issubdtype(value.dtype, np.floating) or name.endswith(_BUFFER_SUFFIXES)
