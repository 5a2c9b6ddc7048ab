"""How a model's named values lie in a row: first what is mixed, then what each worker keeps; the rest is beside it."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Values = Mapping[str, NDArray[Any]]

# torch's names for the state of BatchNorm, which a state_dict does not tell from parameters.
_BUFFER_SUFFIXES = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class ModelParts:
    """Which of a model's named values are trained, and which are not.

    Attributes
    ----------
    trainable : tuple of str
        Parameters with a gradient, each storage once.
    buffers : tuple of str
        Values that are part of the model's state and no parameters.
    tied : dict of str to str
        Further names of a value: {name: the name in ``trainable`` or ``buffers``}.
    frozen : str
        Digest of the parameters without a gradient; empty if there is none.
    momentum : bool
        Whether SGD's momentum buffer, if there is momentum, travels with the row.
    vectors, numbers : tuple of str
        State of another optimiser that travels with the row: vectors over the parameters, and single numbers.
    optimizer : str
        Name of the workers' optimiser, or of its class.
    """

    trainable: tuple[str, ...]
    buffers: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    frozen: str = ""
    momentum: bool = True
    vectors: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    optimizer: str = "sgd"

    @classmethod
    def guess(cls, values: Values) -> "ModelParts":
        """Return the parts of a model of which only the values are known, as the workers of a foreign client leave it.

        Integers and what is named as BatchNorm's buffers are taken for buffers.
        """
        buffers = [name for name, value in values.items() if not _is_float(value) or name.endswith(_BUFFER_SUFFIXES)]
        return cls(tuple(name for name in values if name not in buffers), tuple(buffers))

    def difference(self, agreed: "ModelParts") -> str:
        """Return how a worker's model differs from the others', to follow the words "its model"."""
        if self.optimizer != agreed.optimizer:
            return f"is trained with {self.optimizer} instead of {agreed.optimizer}"
        for kind in ("trainable", "buffers", "vectors", "numbers"):
            mine, theirs = set(getattr(self, kind)), set(getattr(agreed, kind))
            if odd := sorted(mine ^ theirs):
                return f"{'has' if odd[0] in mine else 'lacks'} {odd[0]} among its {kind} values"
        return "has other tied or frozen parameters, or another optimizer.state, than the others'"


class Layout:
    """The names, shapes and places of a model's values.

    A row of float32 holds the mixed parameters, then parameters that each worker keeps for itself, then buffers of
    floats. Other buffers (integers, float64, those that hold infinities) keep their bytes beside the row. Names of tied
    values and frozen parameters have no place: they follow from the others and from the initial model.

    Parameters
    ----------
    values : mapping of str to ndarray
        The initial model: all of it, or its trainable parameters and buffers.
    parts : ModelParts, optional
        What is trained; see :meth:`ModelParts.guess` for the default.
    personal : iterable of str, optional
        Names of parameters and buffers that are not mixed.

    Attributes
    ----------
    num_mixed : int
        Mixed columns, the first of a row.
    num_parameters : int
        Columns with a gradient.
    size : int
        Columns of a row, P.
    exact_size : int
        Bytes beside a row, B.
    optimizer : str
        Name of the workers' optimiser, or of its class.
    has_momentum : bool
        Whether SGD's momentum buffer, if there is momentum, travels with the row.
    optimizer_size : int
        Values of other state of the optimiser that travels with the row, S.
    num_bytes : int
        Size in bytes of what travels of a model.

    Raises
    ------
    ValueError
        If a trainable parameter or a buffer is missing, a parameter is no float, or ``personal`` names no value.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.core.layout import Layout, ModelParts
    >>> model = {"mean": np.zeros(2, np.float32), "weight": np.ones((1, 2), np.float32), "steps": np.array(7)}
    >>> layout = Layout(model, ModelParts(trainable=("weight",), buffers=("mean", "steps")))
    >>> layout.pack(model)
    array([1., 1., 0., 0.], dtype=float32)
    >>> layout.num_parameters, layout.exact_size
    (2, 8)
    >>> layout.model(layout.pack(model), layout.pack_exact(model))["steps"]
    array(7)
    """

    def __init__(self, values: Values, parts: ModelParts | None = None, personal: Iterable[str] = ()) -> None:
        parts = parts or ModelParts.guess(values)
        self._initial = dict(values)
        self._tied = {name: parts.tied[name] for name in self._initial if name in parts.tied}
        own = {parts.tied.get(name, name) for name in personal}
        if unknown := sorted(own - {*parts.trainable, *parts.buffers}):
            raise ValueError(f"buffers must name trainable parameters or buffers of the model; got {unknown[0]}")
        for name in (*parts.trainable, *parts.buffers):
            if name not in self._initial:
                raise ValueError(f"the initial arrays lack {name}, which the workers' model has: pass all it trains")
        trainable, buffers = set(parts.trainable), set(parts.buffers)
        parameters = [name for name in self._initial if name in trainable]
        for name in parameters:
            if not _is_float(self._initial[name]):
                raise ValueError(f"parameters must be floats; {name} is {self._initial[name].dtype}")
        in_row = {name for name in buffers if _is_plain(self._initial[name])}
        mixed = [name for name in parameters if name not in own]
        kept = [name for name in parameters if name in own]
        state = [name for name in self._initial if name in in_row]
        self._parameters = parameters
        exact = [name for name in self._initial if name in buffers - in_row]
        self._sent = [name for name in self._initial if name in trainable | buffers]
        sizes = {name: value.size for name, value in self._initial.items()}
        num_bytes = {name: value.nbytes for name, value in self._initial.items()}
        self._places = _places(sizes, [*mixed, *kept, *state])
        self._beside = _places(num_bytes, exact)
        self.num_mixed = sum(sizes[name] for name in mixed)
        self.num_parameters = sum(sizes[name] for name in parameters)
        self.size = sum(sizes[name] for name in self._places)
        self.exact_size = sum(num_bytes[name] for name in exact)
        self._slots = dict.fromkeys(parts.vectors, self.num_parameters) | dict.fromkeys(parts.numbers, 1)
        self._numbers = set(parts.numbers)
        self.optimizer, self.has_momentum = parts.optimizer, parts.momentum
        self.optimizer_size = sum(self._slots.values())
        self.num_bytes = sum(self.sent_bytes.values())

    @property
    def optimizer_state(self) -> str:
        """Who keeps the state of the workers' SGD between rounds, as ``optimizer.state``."""
        return "server" if self.has_momentum else "worker or reset"

    @property
    def sent_bytes(self) -> dict[str, int]:
        """Bytes of each value that travels of a model."""
        return {name: self._initial[name].nbytes for name in self._sent}

    @property
    def parameter_bytes(self) -> dict[str, int]:
        """Bytes of each parameter."""
        return {name: self._initial[name].nbytes for name in self._parameters}

    @property
    def optimizer_bytes(self) -> dict[str, int]:
        """Bytes of each value of the optimiser's state."""
        return {name: 4 * size for name, size in self._slots.items()}

    @property
    def mixed(self) -> slice:
        """Columns of a row that are mixed."""
        return slice(self.num_mixed)

    def pack(self, values: Values) -> Row:
        """Return a model as a row, shape (size,); frozen and tied values are ignored.

        Raises
        ------
        ValueError
            If a value is missing, has another shape or type than the layout's, or is not finite.
        """
        row = np.empty(self.size, dtype=np.float32)
        self._fill(row, values, list(self._places))
        return row

    def pack_exact(self, values: Values) -> Bytes:
        """Return the bytes of the values that have no place in a row, shape (exact_size,); raises as :meth:`pack`."""
        packed = np.empty(self.exact_size, dtype=np.uint8)
        for name, place in self._beside.items():
            packed[place] = np.frombuffer(self._checked(values, name).tobytes(), dtype=np.uint8)
        self._check_exact(packed)
        return packed

    def check_names(self, names: Iterable[str]) -> None:
        """Raise ValueError unless ``names`` are those of a model as it travels, see :meth:`travelling`."""
        if odd := sorted(set(names) ^ set(self._sent)):
            raise ValueError(f"array {odd[0]} is {'missing' if odd[0] in self._sent else 'unknown'}")

    def travelling(self, row: Row, exact: Bytes) -> dict[str, NDArray[Any]]:
        """Return what travels of a model: trainable parameters and buffers, each once."""
        return {name: self._value(name, row, exact) for name in self._sent}

    def model(self, row: Row, exact: Bytes) -> dict[str, NDArray[Any]]:
        """Return a whole model, with the names of the initial one."""
        sent = self.travelling(row, exact)
        return {name: sent.get(self._tied.get(name, name), value) for name, value in self._initial.items()}

    def consensus_exact(self, exact: Bytes) -> Bytes:
        """Return the bytes beside the mean of all rows.

        Parameters
        ----------
        exact : uint8 ndarray, shape (N, exact_size)
            By rank.

        Returns
        -------
        uint8 ndarray, shape (exact_size,)
            float64 is averaged; of anything else, which may have no mean, the lowest rank's stays.
        """
        mean: Bytes = exact[0].copy()
        for name, place in self._beside.items():
            if _is_plain(self._initial[name], np.float64):
                values = np.ascontiguousarray(exact[:, place]).view(np.float64)
                mean[place] = np.frombuffer(values.mean(axis=0).tobytes(), dtype=np.uint8)
        return mean

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
        return {name: self._value(name, row) for name in self._parameters}

    def pack_optimizer(self, values: Values) -> Row:
        """Return the optimiser's state as a vector, shape (optimizer_size,).

        Raises
        ------
        ValueError
            As :meth:`pack`.
        """
        if set(values) != set(self._slots):
            raise ValueError(f"the state of the optimiser must be {', '.join(self._slots)}; got {', '.join(values)}")
        pieces = []
        for name, size in self._slots.items():
            value = values[name]
            if value.dtype != np.float32 or value.size != size or not np.isfinite(value).all():
                raise ValueError(
                    f"the optimiser's {name} must be {size} finite float32; got {value.size} {value.dtype}"
                )
            pieces.append(value.reshape(-1))
        return np.concatenate(pieces)

    def unpack_optimizer(self, row: Row) -> dict[str, NDArray[Any]]:
        """Return a vector of optimiser state as named values."""
        ends = np.cumsum(list(self._slots.values()))
        pieces = zip(self._slots.items(), np.split(row, ends[:-1]), strict=True)
        return {name: piece.reshape(() if name in self._numbers else size) for (name, size), piece in pieces}

    def _fill(self, row: Row, values: Values, names: list[str]) -> None:
        for name in names:
            row[self._places[name]] = self._checked(values, name).reshape(-1)
        self._check_finite(row)

    def _check_finite(self, row: Row) -> None:
        """Check the first values of a row: all, or those of the parameters."""
        if not np.isfinite(row).all():
            bad = next(name for name, place in self._places.items() if not np.isfinite(row[place]).all())
            raise ValueError(f"array {bad} holds values that are not finite")

    def _check_exact(self, packed: Bytes) -> None:
        for name, place in self._beside.items():
            if _is_plain(self._initial[name], np.float64):
                values = np.frombuffer(packed[place].tobytes(), dtype=self._initial[name].dtype)
                if not np.isfinite(values).all():
                    raise ValueError(f"array {name} holds values that are not finite")

    def _checked(self, values: Values, name: str) -> NDArray[Any]:
        if name not in values:
            raise ValueError(f"array {name} is missing")
        value, model = values[name], self._initial[name]
        if value.shape != model.shape or value.dtype != model.dtype:
            raise ValueError(f"array {name} must be {model.dtype} {model.shape}; got {value.dtype} {value.shape}")
        return value

    def _value(self, name: str, row: Row, exact: Bytes | None = None) -> NDArray[Any]:
        model = self._initial[name]
        if name in self._places:
            return row[self._places[name]].reshape(model.shape).astype(model.dtype)
        assert exact is not None
        return np.frombuffer(exact[self._beside[name]].tobytes(), dtype=model.dtype).reshape(model.shape)


def digest(named: Iterable[tuple[str, bytes]]) -> str:
    """Return a digest of named values, the same in every process."""
    found = hashlib.sha256()
    for name, values in named:
        found.update(f"{name}:{len(values)}:".encode())
        found.update(values)
    return found.hexdigest()


def _places(sizes: Mapping[str, int], names: list[str]) -> dict[str, slice]:
    places, start = {}, 0
    for name in names:
        places[name] = slice(start, start + sizes[name])
        start += sizes[name]
    return places


def _is_float(value: NDArray[Any]) -> bool:
    return np.issubdtype(value.dtype, np.floating)


def _is_plain(value: NDArray[Any], widest: type[np.floating[Any]] = np.float32) -> bool:
    """Return whether a value is finite and made of floats no wider than ``widest``."""
    return _is_float(value) and value.dtype.itemsize <= np.dtype(widest).itemsize and bool(np.isfinite(value).all())
