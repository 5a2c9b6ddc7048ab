"""A model that is received as one array: which piece of it belongs where in the worker's own vectors."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from echelon.protocol.messages import as_array, as_ndarray
from echelon.protocol.rows import names_in, row_name

Values = NDArray[Any]


class RowForm:
    """The order in which a server sends a model's values, see :mod:`echelon.protocol.rows`.

    Parameters
    ----------
    arrays : iterable of str
        Names of the arrays: of the row and, if there is one, of the bytes beside it.
    slices : mapping of str to slice
        Places of the trainable parameters in the model's vectors, in order.
    buffers : mapping of str to tensor
        The model's buffers.

    Attributes
    ----------
    arrays : tuple of str
        As given.
    names : set of str
        Of all values that are sent.
    """

    def __init__(self, arrays: Iterable[str], slices: Mapping[str, slice], buffers: Mapping[str, Tensor]) -> None:
        self.arrays = tuple(arrays)
        self._row, *beside = sorted(self.arrays, key=lambda array: slices.keys().isdisjoint(names_in(array)))
        self._beside = beside[0] if beside else None
        in_row, in_beside = names_in(self._row), names_in(self._beside or "")
        self.names = {*in_row, *in_beside}
        parameters = [name for name in in_row if name in slices]
        self._pieces = [slices[name] for name in parameters]
        self._in_order = parameters == list(slices)
        self._size = sum(piece.stop - piece.start for piece in self._pieces)
        self._vector = row_name(parameters)
        self._in_row = {name: buffers[name] for name in in_row if name in buffers}
        self._in_bytes = {name: buffers[name] for name in in_beside if name in buffers}

    def parameters(self, arrays: ArrayRecord) -> Values:
        """Return the parameters of a received model in the model's order, shape (P,); a view where that is possible.

        Raises
        ------
        ValueError
            If the row has another size than the model's.
        """
        row = as_ndarray(arrays[self._row])
        size = self._size + sum(buffer.numel() for buffer in self._in_row.values())
        if row.shape != (size,):
            raise ValueError(f"the row must have {size} values, as the model has; got {row.shape}")
        return self._reordered(row)

    def buffers(self, arrays: ArrayRecord) -> dict[str, Values]:
        """Return the buffers of a received model by name."""
        found, row, start = {}, as_ndarray(arrays[self._row]), self._size
        for name, buffer in self._in_row.items():
            found[name] = row[start : start + buffer.numel()].reshape(buffer.shape)
            start += buffer.numel()
        if self._beside is not None:
            data, start = as_ndarray(arrays[self._beside]).tobytes(), 0
            for name, buffer in self._in_bytes.items():
                kind = as_sent(buffer[:0] if buffer.ndim else buffer).dtype
                found[name] = np.frombuffer(data, kind, buffer.numel(), start).reshape(buffer.shape)
                start += found[name].nbytes
        return found

    def model(self, parameters: Values, buffers: Mapping[str, Tensor]) -> ArrayRecord:
        """Return what is sent of a model, given its parameters in the model's order and its buffers."""
        row = [self._ordered(parameters)]
        row += [as_sent(buffers[name]).astype(np.float32).reshape(-1) for name in self._in_row]
        sent = {self._row: as_array(row[0] if len(row) == 1 else np.concatenate(row))}
        if self._beside is not None:
            data = b"".join(as_sent(buffers[name]).tobytes() for name in self._in_bytes)
            sent[self._beside] = as_array(np.frombuffer(data, dtype=np.uint8))
        return ArrayRecord({name: sent[name] for name in self.arrays})

    def from_vector(self, arrays: ArrayRecord) -> Values:
        """Return a received vector over the parameters in the model's order, shape (P,)."""
        return self._reordered(as_ndarray(arrays[self._vector]))

    def to_vector(self, values: Values) -> ArrayRecord:
        """Return what is sent of a vector over the parameters in the model's order."""
        return ArrayRecord({self._vector: as_array(self._ordered(values))})

    def _reordered(self, row: Values) -> Values:
        if self._in_order:
            return row[: self._size]
        values, start = np.empty(self._size, dtype=np.float32), 0
        for piece in self._pieces:
            values[piece] = row[start : start + piece.stop - piece.start]
            start += piece.stop - piece.start
        return values

    def _ordered(self, values: Values) -> Values:
        return values if self._in_order else np.concatenate([values[piece] for piece in self._pieces])


def as_sent(tensor: Tensor) -> Values:
    """Return a tensor's values as they travel; bfloat16, which numpy does not have, as float32."""
    values = tensor.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
