"""A reply that is larger than an honest one is refused before anything of it is unpacked."""

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from echelon.protocol import packing
from echelon.protocol.expected import Expected
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import ARRAYS, METRICS, MOMENTUM, num_bytes
from echelon.protocol.packing import PACKED, pack, unpack

MODEL = ArrayRecord({"weight": Array(np.ones((2, 3), np.float32)), "größe 🌊": Array(np.ones((), np.float64))})
EXPECTED = ArrayLayout(MODEL).expected


def honest(momentum: bool = True) -> RecordDict:
    content = RecordDict({ARRAYS: ArrayRecord(dict(MODEL)), METRICS: MetricRecord({"num-examples": 3})})
    if momentum:
        content[MOMENTUM] = ArrayRecord(dict(MODEL))
    return content


def packed(entries: Any, rest: bytes = b"") -> RecordDict:
    header = json.dumps(entries).encode()
    data = len(header).to_bytes(8, "little") + header + rest
    return RecordDict({PACKED: ArrayRecord({PACKED: Array(np.frombuffer(data, np.uint8))})})


def plain(**arrays: ArrayRecord) -> RecordDict:
    return RecordDict({**arrays})


def refuses_to_go_on(*values: Any) -> Any:
    raise AssertionError("it must be refused before")


@pytest.mark.parametrize("momentum", [True, False])
def test_honest_replies_pass(momentum: bool) -> None:
    content = honest(momentum)
    assert unpack(content, EXPECTED) is content
    assert num_bytes(unpack(pack(content), EXPECTED)) == num_bytes(content)


def test_the_sizes_are_those_of_the_values() -> None:
    assert EXPECTED.sizes == {ARRAYS: {"weight": 24, "größe 🌊": 8}, MOMENTUM: {"weight": 24, "größe 🌊": 8}}
    assert EXPECTED.num_arrays == 4


def test_buffers_have_no_momentum() -> None:
    layout = ArrayLayout(ArrayRecord({"w": Array(np.ones(2, np.float32)), "n": Array(np.ones(1, np.int64))}))
    assert layout.expected.sizes == {ARRAYS: {"w": 8, "n": 8}, MOMENTUM: {"w": 8}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (packed([[f"r{i}", "n", "f", [], 0] for i in range(40_000)]), r"\d{6} bytes of arrays; an honest one has"),
        (plain(**{ARRAYS: ArrayRecord({f"n{i}": Array(np.ones(1)) for i in range(500)})}), "has 500 arrays"),
        (RecordDict({f"r{i}": ConfigRecord() for i in range(500)}), "has 500 records; at most 16"),
        (plain(**{ARRAYS: ArrayRecord({"weight": Array(np.ones(10_000))})}), "80128 bytes of arrays; an honest one"),
    ],
    ids=["packed records", "arrays", "records", "bytes"],
)
def test_size_is_checked_before_anything_is_read(
    content: RecordDict, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "as_ndarray", refuses_to_go_on)
    monkeypatch.setattr(Expected, "check_names", refuses_to_go_on)
    with pytest.raises(ValueError, match=reason):
        unpack(content, EXPECTED)


def test_the_header_of_packed_arrays_is_measured_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is within that of a large model, of which it leaves room for nothing but names."""
    expected = ArrayLayout(ArrayRecord({"w": Array(np.ones(100_000, np.float32))})).expected
    monkeypatch.setattr(packing, "_parsed", refuses_to_go_on)
    with pytest.raises(ValueError, match="the header of packed arrays has 163890 bytes; an honest one has 2054"):
        unpack(packed([["arrays", f"n{i}", "f", [], 0] for i in range(5_000)]), expected)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([["arrays", "stranger", "float32", [], 1]], "array stranger is unknown"),
        ([["strangers", "weight", "float32", [], 1]], "array record strangers is unknown; known are arrays, momentum"),
        ([["arrays", "weight", "float32", [], 2**60]], "array weight must have 24 bytes of values; got 1152921504"),
        ([["arrays", "weight", "float32", [], 0]] * 2, "an array comes twice"),
        ([["arrays", f"n{i}", "f", [], 0] for i in range(5)], "its reply has 5 arrays; an honest one has at most 4"),
    ],
)
def test_names_and_sizes_are_checked_before_bytes_are_copied(
    entries: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "Array", refuses_to_go_on)
    with pytest.raises(ValueError, match=reason):
        unpack(packed(entries, b"1"), EXPECTED)


def test_an_unknown_record_is_refused_without_packing_too() -> None:
    with pytest.raises(ValueError, match="array record strangers is unknown"):
        unpack(plain(strangers=ArrayRecord({"weight": Array(np.ones(1))})), EXPECTED)


def test_an_unknown_name_is_cut_in_the_reason() -> None:
    with pytest.raises(ValueError, match=r"^array x{100} is unknown$"):
        unpack(plain(**{ARRAYS: ArrayRecord({"x" * 3000: Array(np.ones(1))})}), EXPECTED)
