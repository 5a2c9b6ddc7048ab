"""How a model's named values lie in one row: parameters first (they are mixed), then buffers (they are not)."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Values = Mapping[str, NDArray[Any]]

# torch's names for the state of BatchNorm, which a state_dict does not tell from parameters.
_BUFFER_SUFFIXES = ("running_mean", "running_var", "num_batches_tracked")


class Layout:
    """The names, shapes and places of a model's values in a row of float32.

    Parameters
    ----------
    values : mapping of str to ndarray
        A model.
    buffers : iterable of str, optional
        Names of the values that are not mixed. By default those of integers and those named as BatchNorm's buffers.

    Attributes
    ----------
    num_parameters : int
        Mixed columns.
    size : int
        Columns of a row.
    num_bytes : int
        Size of a model in bytes.

    Raises
    ------
    ValueError
        If ``buffers`` names a value that the model does not have.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.core.layout import Layout
    >>> layout = Layout({"running_mean": np.zeros(2, np.float32), "weight": np.ones((1, 2), np.float32)})
    >>> layout.pack({"running_mean": np.zeros(2, np.float32), "weight": np.ones((1, 2), np.float32)})
    array([1., 1., 0., 0.], dtype=float32)
    >>> layout.num_parameters
    2
    """

    def __init__(self, values: Values, buffers: Iterable[str] | None = None) -> None:
        self._values = dict(values)
        named = set(buffers) if buffers is not None else {n for n, v in self._values.items() if _is_buffer(n, v)}
        unknown = named - set(self._values)
        if unknown:
            raise ValueError(f"buffers must name arrays of the model; got {sorted(unknown)[0]}")
        self._order = list(self._values)
        self._parameters = [name for name in self._order if name not in named]
        self._slices: dict[str, slice] = {}
        start = 0
        for name in [*self._parameters, *(name for name in self._order if name in named)]:
            self._slices[name] = slice(start, start + math.prod(self._values[name].shape))
            start = self._slices[name].stop
        self.size = start
        self.num_parameters = sum(math.prod(self._values[name].shape) for name in self._parameters)
        self.num_bytes = sum(value.nbytes for value in self._values.values())

    @property
    def mixed(self) -> slice:
        """Columns of a row that are mixed."""
        return slice(self.num_parameters)

    def pack(self, values: Values) -> Row:
        """Return a model as a row, shape (size,).

        Raises
        ------
        ValueError
            If names, shapes or types differ from the layout's, or a value is not finite.
        """
        if set(values) != set(self._slices):
            odd = sorted(set(values) ^ set(self._slices))[0]
            raise ValueError(f"array {odd} is missing or unknown")
        row = np.empty(self.size, dtype=np.float32)
        self._fill(row, values, self._order)
        return row

    def unpack(self, row: Row) -> dict[str, NDArray[Any]]:
        """Return a row as a model."""
        return self._named(row, self._order)

    def pack_parameters(self, values: Values) -> Row:
        """Return values named as the parameters are (a momentum buffer, say) as a vector, shape (num_parameters,).

        Raises
        ------
        ValueError
            As :meth:`pack`.
        """
        if set(values) != set(self._parameters):
            raise ValueError("the arrays are not named as the model's parameters")
        row = np.empty(self.num_parameters, dtype=np.float32)
        self._fill(row, values, self._parameters)
        return row

    def unpack_parameters(self, row: Row) -> dict[str, NDArray[Any]]:
        """Return a vector over the parameters as named values."""
        return self._named(row, self._parameters)

    def _fill(self, row: Row, values: Values, names: list[str]) -> None:
        for name in names:
            value, model = values[name], self._values[name]
            if value.shape != model.shape or value.dtype != model.dtype:
                raise ValueError(f"array {name} must be {model.dtype} {model.shape}; got {value.dtype} {value.shape}")
            row[self._slices[name]] = value.reshape(-1)
        if not np.isfinite(row).all():
            bad = next(name for name in names if not np.isfinite(row[self._slices[name]]).all())
            raise ValueError(f"array {bad} holds values that are not finite")

    def _named(self, row: Row, names: list[str]) -> dict[str, NDArray[Any]]:
        return {
            name: row[self._slices[name]].reshape(self._values[name].shape).astype(self._values[name].dtype)
            for name in names
        }


def _is_buffer(name: str, value: NDArray[Any]) -> bool:
    return not np.issubdtype(value.dtype, np.floating) or name.endswith(_BUFFER_SUFFIXES)
