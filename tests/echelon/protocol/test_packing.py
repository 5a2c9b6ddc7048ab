"""Packing and unpacking the arrays of a message; malformed packed arrays are rejected."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from echelon.protocol.expected import Expected
from echelon.protocol.messages import num_bytes
from echelon.protocol.packing import PACKED, pack, unpack

values = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
records = st.dictionaries(st.text(min_size=1, max_size=5), values.map(Array), min_size=1, max_size=4).map(ArrayRecord)


def plain(content: RecordDict) -> dict[str, Any]:
    return {
        key: {name: (a.dtype, tuple(a.shape), a.stype, a.data) for name, a in record.items()}
        if isinstance(record, ArrayRecord)
        else dict(record)
        for key, record in content.items()
    }


given_arrays = st.dictionaries(st.sampled_from(["arrays", "momentum", "shard"]), records)
ONLY_ARRAYS = -1  # no message has so few bytes that it would become one record


@given(given_arrays)
def test_what_is_packed_comes_out_again(given_records: dict[str, ArrayRecord]) -> None:
    content = RecordDict({**given_records, "config": ConfigRecord({"lr": 0.1}), "metrics": MetricRecord({"n": 3})})
    packed = pack(content, ONLY_ARRAYS)
    assert set(packed) == {PACKED, "config", "metrics"}
    assert plain(unpack(packed)) == plain(content)


@given(given_arrays)
def test_a_small_message_becomes_one_record_and_comes_out_again(given_records: dict[str, ArrayRecord]) -> None:
    content = RecordDict({**given_records, "config": ConfigRecord({"lr": 0.1}), "metrics": MetricRecord({"n": 3})})
    packed = pack(content)
    assert [type(record) for record in packed.values()] == [ConfigRecord]
    assert plain(unpack(packed)) == plain(content)
    assert list(unpack(packed)) == list(content)


def test_a_message_of_more_bytes_becomes_one_array() -> None:
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(10)), "b": Array(np.zeros(3))})})
    size = num_bytes(content)
    assert isinstance(pack(content, size)[PACKED], ConfigRecord)
    assert isinstance(pack(content, size - 1)[PACKED], ArrayRecord)


def in_one(**values: Any) -> RecordDict:
    return RecordDict({PACKED: ConfigRecord(values)})


@pytest.mark.parametrize(
    "content",
    [
        in_one(),
        in_one(packed="text"),
        in_one(packed=b"", more=1),
        in_one(packed=b"\xff\xff"),
        in_one(packed=b"\x0a\x03\x0a\x01a"),  # a record of no kind
        RecordDict({**in_one(packed=b""), "arrays": ArrayRecord()}),
    ],
)
def test_other_records_are_refused(content: RecordDict) -> None:
    with pytest.raises(ValueError, match="packed"):
        unpack(content)


def test_one_record_is_compared_with_the_model_before_it_is_read() -> None:
    expected = Expected({"arrays": {"w": 80}})
    long = in_one(packed=bytes(2 << 20))
    with pytest.raises(ValueError, match="an honest one has at most"):
        unpack(long, expected)
    with pytest.raises(ValueError, match="array stranger is unknown"):
        unpack(pack(RecordDict({"arrays": ArrayRecord({"stranger": Array(np.zeros(10))})})), expected)


@given(given_arrays, st.integers(0, 200), st.binary(min_size=1, max_size=8))
@settings(deadline=None)
def test_a_changed_record_is_read_or_refused(arrays: dict[str, ArrayRecord], place: int, change: bytes) -> None:
    data: Any = pack(RecordDict({**arrays, "metrics": MetricRecord({"n": 3})})).config_records[PACKED][PACKED]
    with suppress(ValueError):
        unpack(in_one(packed=data[:place] + change + data[place + len(change) :]), Expected({"arrays": {"w": 8}}))


def test_what_is_not_packed_stays() -> None:
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))})})
    assert unpack(content) is content


def made(data: bytes) -> RecordDict:
    return RecordDict({PACKED: ArrayRecord({PACKED: Array(np.frombuffer(data, dtype=np.uint8))})})


def with_header(header: Any, rest: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        with_header(b"no json"),
        with_header(b"[" * 100_000),
        with_header({"arrays": 1}),
        with_header([["arrays", "w", "float32", [1]]]),
        with_header([["arrays", "w", "float32", [1], -4]], b"1234"),
        with_header([["arrays", "w", "float32", [1], True]], b"1"),
        with_header([["arrays", "w", "float32", 1, 4]], b"1234"),
        with_header([["arrays", "w", "float32", [1], 5]], b"1234"),
        with_header([["arrays", 7, "float32", [1], 4]], b"1234"),
        with_header([["arrays", "w", "float32", [1], 3]], b"1234"),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="packed arrays"):
        unpack(made(data))


def test_arrays_beside_the_packed_ones_are_refused() -> None:
    content = pack(RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))})}), ONLY_ARRAYS)
    content["momentum"] = ArrayRecord({"w": Array(np.zeros(2))})
    with pytest.raises(ValueError, match="must have exactly one array"):
        unpack(content)


def test_packed_numbers_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="must be bytes; got float64"):
        unpack(RecordDict({PACKED: ArrayRecord({PACKED: Array(np.zeros(2))})}))


@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
@settings(deadline=None)
def test_changed_bytes_are_read_or_refused(place: int, change: bytes) -> None:
    arrays = ArrayRecord({"w": Array(np.zeros(2)), "b": Array(np.ones(1))})
    content = pack(RecordDict({"arrays": arrays}), ONLY_ARRAYS)
    data = content.array_records[PACKED][PACKED].numpy().tobytes()
    try:
        found = unpack(made(data[:place] + change + data[place + len(change) :]))
    except ValueError:
        return
    assert all(isinstance(array.data, bytes) for record in found.array_records.values() for array in record.values())
