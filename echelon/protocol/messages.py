"""What server and workers say to each other: the content of every Flower message, as typed records.

Keys follow Flower's own strategies (``arrays``, ``config``, ``metrics``, ``num-examples``), so that a client made here
also answers Flower's FedAvg, and a foreign client also works under the strategies here.
"""

import io
import math
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Self

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray

ROSTER_QUERY = "roster"

ARRAYS = "arrays"
MOMENTUM = "momentum"
ANCHOR = "anchor"
SHARD = "shard"
CONFIG = "config"
METRICS = "metrics"
NUM_EXAMPLES = "num-examples"

_LONGEST_HEADER = 4096


@dataclass(frozen=True)
class TrainInstructions:
    """A round's instructions to one worker; the defaults serve a server that sends none (Flower's FedAvg).

    ``target_samples`` is the work of the round, 0 stands for ``local_steps`` full batches; ``budget_seconds`` is
    infinite for blocking work. ``epoch`` and ``position`` are the worker's cursor. ``run_seconds`` is
    the run's time axis at the start of the round. ``wall_clock`` turns a simulated fleet off. ``persistent`` lets
    a real device keep a trainer process, which is killed if it does not answer within the budget plus
    ``timeout_seconds``.
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
    epoch: int = 0
    position: int = 0
    run_seconds: float = 0.0
    wall_clock: bool = False
    persistent: bool = True
    timeout_seconds: float = 600.0

    def to_config(self) -> ConfigRecord:
        """Return the record that carries these instructions, with Flower's ``server-round`` beside them."""
        return ConfigRecord({**asdict(self), "server-round": self.server_round})

    @classmethod
    def from_config(cls, config: ConfigRecord) -> Self:
        """Read instructions, keeping the default of every key that is missing."""
        known: dict[str, Any] = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        if "server_round" not in known and "server-round" in config:
            known["server_round"] = config["server-round"]
        return cls(**known)

    def patience_seconds(self, message_type: str) -> float:
        """Return how long an answer may take: for ever where there is blocking work to do."""
        return self.timeout_seconds + (self.budget_seconds if message_type == MessageType.TRAIN else 0.0)


@dataclass(frozen=True)
class TrainReport:
    """A worker's account of its round; seconds are those of its own clock.

    ``num_examples`` is the size of its shard (the weight in averages); ``samples`` were processed this round, in
    ``minibatches`` mini-batches. ``dropped_seconds`` went into a mini-batch that was thrown away. ``away_seconds``
    above zero says that the worker is off for so long and did nothing.
    """

    num_examples: int
    samples: int = 0
    minibatches: int = 0
    train_loss: float = math.nan
    seconds: float = 0.0
    dropped_seconds: float = 0.0
    away_seconds: float = 0.0

    def to_metrics(self) -> MetricRecord:
        """Return the record that carries this report."""
        values = asdict(self)
        values[NUM_EXAMPLES] = values.pop("num_examples")
        return MetricRecord(values)

    @classmethod
    def from_metrics(cls, metrics: MetricRecord) -> Self:
        """Read a report; raise KeyError without ``num-examples`` and ValueError for a value that is no number."""
        values: dict[str, Any] = {f.name: metrics[f.name] for f in fields(cls) if f.name in metrics}
        values["num_examples"] = metrics[NUM_EXAMPLES]
        for name, value in values.items():
            if isinstance(value, list):
                raise ValueError(f"metric {name} must be one number; got a list of {len(value)}")
        return cls(**values)


@dataclass(frozen=True)
class RosterEntry:
    """What a worker says of itself in the handshake.

    ``seconds_per_minibatch`` is measured on real devices and known in simulation; NaN says that it is not known.
    ``bandwidth`` is in bytes per second. ``packs`` says that it reads packed arrays (``echelon.protocol.packing``).
    """

    rank: int
    num_examples: int = 0
    samples_per_second: float = math.nan
    seconds_per_minibatch: float = math.nan
    latency_seconds: float = 0.0
    bandwidth: float = math.inf
    device: str = ""
    packs: bool = False

    def to_content(self) -> RecordDict:
        """Return the content of the handshake's reply."""
        values = asdict(self)
        said = ConfigRecord({name: values.pop(name) for name in ("device", "packs")})
        return RecordDict({METRICS: MetricRecord(values), CONFIG: said})

    @classmethod
    def from_content(cls, content: RecordDict) -> Self:
        """Read a handshake's reply; raise KeyError, TypeError or ValueError when it is none."""
        metrics = content.metric_records[METRICS]
        values: dict[str, Any] = {f.name: metrics[f.name] for f in fields(cls) if f.name in metrics}
        for name, value in values.items():
            if (
                isinstance(value, list)
                or value < 0
                or (name in ("rank", "num_examples") and not isinstance(value, int))
            ):
                raise ValueError(f"{name} must be a number that is not below 0; got {value}")
        said = content.config_records[CONFIG]
        for name in ("samples_per_second", "seconds_per_minibatch", "bandwidth"):
            if values.get(name) == 0 or (name != "bandwidth" and values.get(name) == math.inf):
                raise ValueError(f"{name} must be above 0 and, but for bandwidth, finite; got {values[name]}")
        if not values.get("latency_seconds", 0.0) < math.inf:
            raise ValueError(f"latency_seconds must be finite; got {values['latency_seconds']}")
        return cls(device=str(said["device"]), packs=bool(said.get("packs", False)), **values)


def as_ndarray(array: Array) -> NDArray[Any]:
    """Return an array's values as a read-only view of its bytes (Flower's own ``numpy()`` copies them).

    Raises
    ------
    ValueError
        If the bytes are not one plain ``.npy`` array of the declared type and shape.
    """
    data = array.data
    size = 2 if data[6:7] == b"\x01" else 4  # of the header's length, which follows magic string and version
    start = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    shape, fortran, dtype = _read_header(data[: min(start, _LONGEST_HEADER)])
    if dtype.hasobject:
        raise ValueError(f"arrays of Python objects are refused; got dtype {dtype}")
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
    except Exception as error:  # numpy parses the header as Python: what that raises is up to whoever sent it
        raise ValueError(f"an array has no readable .npy header: {error}") from error


def shard_record(indices: NDArray[np.integer[Any]]) -> ArrayRecord:
    """Return the record that carries a worker's sample indices."""
    return ArrayRecord({"indices": Array(np.ascontiguousarray(indices, dtype=np.int64))})


def num_bytes(content: RecordDict) -> int:
    """Return the bytes of all arrays in a message's content."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
