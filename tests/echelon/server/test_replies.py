"""Whatever a worker sends is either a sound reply or a rejection with a reason; nothing else comes of it."""

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import ARRAYS, METRICS, MOMENTUM, TrainReport
from echelon.server.replies import RejectedReplyError, read

MODEL: dict[str, np.ndarray[Any, Any]] = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.zeros(2, np.float32),
    "num_batches_tracked": np.array(3, np.int64),
}
COUNT = np.array([8], dtype=np.int64).view(np.uint8)
LAYOUT = ArrayLayout(ArrayRecord({name: Array(value) for name, value in MODEL.items()}))
TARGET, SHARD = 64, 100
SOUND: dict[str, Any] = {"num-examples": SHARD, "samples": 64, "minibatches": 2, "train_loss": 0.5, "seconds": 1.5}

numbers = st.one_of(
    st.floats(), st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, SHARD, TARGET, -1, 0.0, math.nan, math.inf])
)
metrics = st.dictionaries(
    st.sampled_from([*SOUND, "dropped_seconds", "away_seconds", "num_examples", "other"]),
    st.one_of(numbers, numbers, numbers, st.lists(st.floats(), max_size=2)),
    max_size=2,
)


def npy(value: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """An array whose bytes are anything, some of them nearly what they should be."""
    sound = npy(MODEL[draw(st.sampled_from(sorted(MODEL)))])
    kind = draw(st.sampled_from(["sound", "bytes", "changed", "cut", "longer", "special", "header"]))
    data = sound
    if kind == "bytes":
        data = draw(st.binary(max_size=200))
    elif kind == "changed":
        place = draw(st.integers(0, len(sound) - 1))
        data = sound[:place] + draw(st.binary(min_size=1, max_size=4)) + sound[place + 1 :]
    elif kind == "cut":
        data = sound[: draw(st.integers(0, len(sound)))]
    elif kind == "longer":
        data = sound + draw(st.binary(max_size=50))
    elif kind == "special":
        odd = [np.full((2, 3), np.nan, np.float32), np.full(2, np.inf, np.float32), np.zeros((2, 3)), np.zeros((3, 2))]
        data = npy(draw(st.sampled_from([*odd, np.array([{}, print], dtype=object), np.zeros((2, 3), "f4,i4")])))
    elif kind == "header":
        text = draw(st.text(max_size=80)).encode()
        data = b"\x93NUMPY\x01\x00" + draw(st.integers(0, 65535)).to_bytes(2, "little") + text
    return Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=data)


@st.composite
def contents(draw: st.DrawFn) -> RecordDict:
    """A reply of which one thing or another is not as it should be."""
    model = {name: Array(value) for name, value in MODEL.items()}
    momentum = {name: Array(np.ones_like(MODEL[name])) for name in ("weight", "bias")}
    values: dict[str, Any] = dict(SOUND)
    for kind in draw(st.lists(st.sampled_from(["array", "name", "momentum", "metric", "metrics"]), max_size=2)):
        if kind == "array":
            model[draw(st.sampled_from(sorted(MODEL)))] = draw(arrays())
        elif kind == "name":
            model[draw(st.sampled_from(["stranger", "../../etc/passwd"]))] = Array(np.zeros(2))
        elif kind == "momentum":
            momentum[draw(st.sampled_from([*sorted(MODEL), "stranger"]))] = draw(arrays())
        elif kind == "metric":
            values |= draw(metrics)
        else:
            values = draw(metrics)
    content = RecordDict({METRICS: MetricRecord(values), ARRAYS: ArrayRecord(model)})
    if draw(st.booleans()):
        content[MOMENTUM] = ArrayRecord(momentum)
    other = draw(st.sampled_from([None, None, None, ARRAYS, METRICS, MOMENTUM]))
    if other is not None:
        content.pop(other, None)
        if draw(st.booleans()):
            content[other] = ConfigRecord({"lr": 0.1})
    return content


@pytest.fixture(autouse=True, scope="module")
def flower_process() -> Iterator[None]:
    """Messages are made in a process that runs a task of Flower's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        yield


def reply(content: RecordDict) -> Message:
    return Message(content, reply_to=Message(RecordDict(), dst_node_id=1, message_type="train"))


@given(contents())
@settings(max_examples=400, deadline=None)
def test_a_reply_is_sound_or_rejected(content: RecordDict) -> None:
    try:
        found = read(reply(content), LAYOUT, TARGET, SHARD)
    except RejectedReplyError:
        return
    if found.row is None:
        assert found.report.away_seconds > 0
        return
    assert found.row.shape == (LAYOUT.size,)
    assert found.row.dtype == np.float32
    assert np.isfinite(found.row).all()
    assert found.momentum is None or (found.momentum.shape == (8,) and np.isfinite(found.momentum).all())
    assert found.report.num_examples == SHARD
    assert 0 <= found.report.samples <= TARGET
    assert found.report.minibatches >= 0
    assert 0 <= found.report.seconds < math.inf


def test_what_was_meant_to_be_read_is_read() -> None:
    content = RecordDict({METRICS: MetricRecord(SOUND), ARRAYS: LAYOUT.write(np.arange(8, dtype=np.float32), COUNT)})
    found = read(reply(content), LAYOUT, TARGET, SHARD)
    np.testing.assert_array_equal(found.row, np.arange(8))
    assert found.exact is not None
    assert found.exact.tobytes() == COUNT.tobytes()
    assert found.report == TrainReport(SHARD, 64, 2, 0.5, 1.5)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("samples", TARGET + 1, "samples must lie in"),
        ("num-examples", SHARD - 1, "num-examples must be 100"),
        ("seconds", math.nan, "seconds must lie in"),
        ("minibatches", -1, "minibatches must be at least 0"),
        ("train_loss", math.inf, "train_loss must be finite"),
        ("samples", 1.5, "samples must be an integer"),
    ],
)
def test_a_rejection_names_what_is_wrong(name: str, value: float, reason: str) -> None:
    content = RecordDict(
        {METRICS: MetricRecord({**SOUND, name: value}), ARRAYS: LAYOUT.write(np.zeros(8, np.float32), COUNT)}
    )
    with pytest.raises(RejectedReplyError, match=reason):
        read(reply(content), LAYOUT, TARGET, SHARD)
