"""Typed records for the content of every Flower message between server and workers.

Keys follow Flower's own strategies (``arrays``, ``config``, ``metrics``, ``num-examples``): Echelon clients work with
Flower's FedAvg, and other Flower clients work with Echelon's strategies.
"""

import io
import math
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Self, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray

from echelon.core.layout import ModelParts

ROSTER_QUERY = "roster"

ARRAYS = "arrays"
MOMENTUM = "momentum"
ANCHOR = "anchor"
DIRECTION = "direction"
CORRECTION = "correction"
MEMORY = "memory"
SHARD = "shard"
CONFIG = "config"
INITIAL = "initial-arrays"
OPTIMIZER = "optimizer"
METRICS = "metrics"
NUM_EXAMPLES = "num-examples"

# Begins the reason of a reply if the user's data, model or functions have failed: the class of that name in `clients`.
USER_CODE_ERROR = "UserCodeError"
RecordT = TypeVar("RecordT", ArrayRecord, ConfigRecord, MetricRecord)

_LONGEST_HEADER = 4096
_PART_LISTS = ("trainable", "buffers", "vectors", "numbers")
_NO_NUMBERS = frozenset({"device", "packs", "bf16", "parts", "buffers"})


@dataclass(frozen=True)
class TrainInstructions:
    """A round's instructions to one worker; the defaults serve a server that sends none (Flower's FedAvg).

    ``target_samples`` is the work of the round; 0 means ``local_steps`` full batches. ``budget_seconds`` is infinite
    for blocking work. ``schedule`` is the factor of the learning rate in this round. With ``keeps_optimizer`` the
    server keeps the state of the worker's optimiser. With ``remembers`` it sends, from a worker's second round on, the
    gradient with which a partial step is filled in. ``epoch`` and ``position`` are the worker's cursor.
    ``run_seconds`` is the start of the round on the time axis of the run. ``wall_clock`` disables a simulated fleet.
    ``persistent`` lets a deployed node keep a trainer process, which is killed if it does not answer within the budget
    plus ``timeout_seconds``, or within ``round_timeout_seconds``, after which the server does not wait for it any more.
    ``poll_seconds`` is how often a deployed node should ask for messages at most.
    """

    seed: int = 0
    server_round: int = 1
    rank: int = -1
    local_steps: int = 1
    batch_size: int = 256
    minibatch_size: int = 32
    target_samples: int = 0
    min_minibatches: int = 1
    budget_seconds: float = math.inf
    seconds_per_minibatch: float = math.nan
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    anchor_strength: float = 0.0
    schedule: float = 1.0
    keeps_optimizer: bool = False
    epoch: int = 0
    position: int = 0
    run_seconds: float = 0.0
    wall_clock: bool = False
    persistent: bool = True
    timeout_seconds: float = 600.0
    round_timeout_seconds: float = math.inf
    remembers: bool = False
    poll_seconds: float = 0.1

    def to_config(self) -> ConfigRecord:
        """Return a record with all of these instructions and Flower's ``server-round``: any client may read it."""
        return ConfigRecord({**vars(self), "server-round": self.server_round})

    @classmethod
    def from_config(cls, config: ConfigRecord) -> Self:
        """Parse instructions; missing keys keep their defaults."""
        names = cls.__dataclass_fields__
        known: dict[str, Any] = {name: value for name, value in config.items() if name in names}
        if "server_round" not in known and "server-round" in config:
            known["server_round"] = config["server-round"]
        return cls(**known)

    def patience_seconds(self, message_type: str) -> float:
        """Return the time limit of an answer; that of training is the round's where the budget is infinite."""
        patience = self.timeout_seconds + (self.budget_seconds if message_type == MessageType.TRAIN else 0.0)
        return min(patience, self.round_timeout_seconds)


@dataclass(frozen=True)
class TrainReport:
    """A worker's report of its round; seconds are measured by its own clock.

    ``num_examples`` is the size of its shard (the weight in averages); ``samples`` is the number of samples processed
    this round, in ``minibatches`` mini-batches. ``dropped_seconds`` is the time spent on a discarded mini-batch. A
    positive ``away_seconds`` means that the worker did nothing and stays offline for this time.
    """

    num_examples: int
    samples: int = 0
    minibatches: int = 0
    train_loss: float = math.nan
    seconds: float = 0.0
    dropped_seconds: float = 0.0
    away_seconds: float = 0.0

    def to_metrics(self) -> MetricRecord:
        """Return a record with this report."""
        values = dict(vars(self))
        values[NUM_EXAMPLES] = values.pop("num_examples")
        return MetricRecord(values)

    @classmethod
    def from_metrics(cls, metrics: MetricRecord) -> Self:
        """Parse a report; raise KeyError without ``num-examples`` and ValueError for a value that is not a number."""
        names = cls.__dataclass_fields__
        values: dict[str, Any] = {name: value for name, value in metrics.items() if name in names}
        values["num_examples"] = metrics[NUM_EXAMPLES]
        for name, value in values.items():
            if isinstance(value, list):
                raise ValueError(f"metric {name} must be one number; got a list of {len(value)}")
        return cls(**values)


@dataclass(frozen=True)
class RosterEntry:
    """A worker's description of itself in the handshake.

    ``seconds_per_minibatch`` is measured on real devices and known in simulation; NaN if unknown. ``bandwidth`` is in
    bytes per second. ``packs`` is true if the worker takes a model as one array (``echelon.protocol.rows``) and all
    arrays of a message as one (``echelon.protocol.packing``), ``bf16`` if it takes such a model rounded, and sends
    differences (``echelon.protocol.wire``). ``parts`` says what its model is made of; ``buffers`` are
    those that the initial arrays lack.
    """

    rank: int
    num_examples: int = 0
    samples_per_second: float = math.nan
    seconds_per_minibatch: float = math.nan
    latency_seconds: float = 0.0
    bandwidth: float = math.inf
    device: str = ""
    packs: bool = False
    bf16: bool = False
    parts: ModelParts | None = None
    buffers: ArrayRecord | None = field(default=None, compare=False)

    def to_content(self) -> RecordDict:
        """Return the content of a handshake reply."""
        values = {name: value for name, value in vars(self).items() if name not in _NO_NUMBERS}
        config = ConfigRecord({"device": self.device, "packs": self.packs, "bf16": self.bf16})
        if self.parts is not None:
            config.update(_parts_to_config(self.parts))
        content = RecordDict({METRICS: MetricRecord(values), CONFIG: config})
        if self.buffers is not None:
            content[ARRAYS] = self.buffers
        return content

    @classmethod
    def from_content(cls, content: RecordDict) -> Self:
        """Parse a handshake reply; raise KeyError, TypeError or ValueError if it is malformed."""
        metrics = content.metric_records[METRICS]
        numbers = {f.name for f in fields(cls)} - _NO_NUMBERS
        values: dict[str, Any] = {name: metrics[name] for name in numbers & set(metrics)}
        for name, value in values.items():
            if (
                isinstance(value, list)
                or value < 0
                or (name in ("rank", "num_examples") and not isinstance(value, int))
            ):
                raise ValueError(f"{name} must be a number, at least 0; got {value}")
        config = content.config_records[CONFIG]
        for name in ("samples_per_second", "seconds_per_minibatch", "bandwidth"):
            if values.get(name) == 0 or (name != "bandwidth" and values.get(name) == math.inf):
                raise ValueError(f"{name} must be above 0 and, except for bandwidth, finite; got {values[name]}")
        if not values.get("latency_seconds", 0.0) < math.inf:
            raise ValueError(f"latency_seconds must be finite; got {values['latency_seconds']}")
        parts = _parts_from_config(config)
        forms = {name: bool(config.get(name, False)) for name in ("packs", "bf16")}
        texts: dict[str, Any] = {"device": str(config["device"]), **forms}
        return cls(parts=parts, buffers=content.array_records.get(ARRAYS), **texts, **values)


def _parts_to_config(parts: ModelParts) -> ConfigRecord:
    lists = {name: [*getattr(parts, name)] for name in _PART_LISTS}
    tied = [name for pair in parts.tied.items() for name in pair]
    single = {name: getattr(parts, name) for name in ("frozen", "momentum", "optimizer")}
    return ConfigRecord({**lists, "tied": tied, **single})


def _parts_from_config(config: ConfigRecord) -> ModelParts | None:
    """Parse what a worker says about its model; None if it says nothing, ValueError if that is malformed."""
    if "trainable" not in config:
        return None
    lists: dict[str, Any] = {name: config[name] for name in (*_PART_LISTS, "tied")}
    for name, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(value, str) for value in names):
            raise ValueError(f"{name} must be a list of names; got {names}")
    tied = lists.pop("tied")
    pairs = dict(zip(tied[::2], tied[1::2], strict=True))
    named: dict[str, Any] = {name: tuple(names) for name, names in lists.items()}
    named |= {name: str(config[name]) for name in ("frozen", "optimizer")}
    return ModelParts(**named, tied=pairs, momentum=bool(config["momentum"]))


def record(content: RecordDict, key: str, kind: type[RecordT]) -> RecordT:
    """Return a record of one kind; ``content.array_records[key]`` would make a dictionary of all that there are.

    Raises
    ------
    KeyError
        If there is none.
    """
    found = content.get(key)
    if not isinstance(found, kind):
        raise KeyError(key)
    return found


def as_array(values: NDArray[Any]) -> Array:
    """Return values as an array with the same bytes as ``Array(values)``, which composes every header anew."""
    contiguous = np.asarray(values, order="C")
    header, dtype = _header(contiguous.dtype, contiguous.shape)
    return Array(dtype, contiguous.shape, "numpy.ndarray", b"".join((header, contiguous.data)))


@lru_cache(maxsize=4096)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, str]:
    file = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue(), str(dtype)


def as_ndarray(array: Array) -> NDArray[Any]:
    """Return the values of an array as a read-only view of its bytes (Flower's ``numpy()`` copies them).

    Raises
    ------
    ValueError
        If the bytes are not exactly one ``.npy`` array of a plain type.
    """
    data = array.data
    size = 2 if data[6:7] == b"\x01" else 4  # width of the length field that follows magic string and version
    start = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    shape, fortran, dtype = _read_header(data[: min(start, _LONGEST_HEADER)])
    if dtype.hasobject:
        raise ValueError(f"arrays must not contain Python objects; got dtype {dtype}")
    count = math.prod(shape)
    if len(data) != start + count * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} must have {count * dtype.itemsize} bytes")
    values = np.frombuffer(data, dtype=dtype, count=count, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=4096)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)
    except Exception as error:  # numpy parses the header as Python, so a malicious sender chooses the error
        raise ValueError(f"an array has no readable .npy header: {error}") from error


def shard_record(indices: NDArray[np.integer[Any]]) -> ArrayRecord:
    """Return a record with a worker's sample indices."""
    return ArrayRecord({"indices": as_array(np.asarray(indices, dtype=np.int64))})


def num_bytes(content: RecordDict) -> int:
    """Return the total size in bytes of the arrays in a message."""
    arrays = (record for record in content.values() if isinstance(record, ArrayRecord))
    return sum(len(array.data) for record in arrays for array in record.values())
