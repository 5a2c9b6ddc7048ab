"""A model as one array: what comes back is what was sent, and nothing else is taken."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from echelon.core.layout import ModelParts
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import ARRAYS, MOMENTUM, OPTIMIZER, TrainReport, as_array
from echelon.protocol.packing import unpack
from echelon.protocol.rows import is_row, names_in, row_name
from echelon.server.replies import Reply

MODEL: dict[str, np.ndarray[Any, Any]] = {
    "mean": np.arange(2, dtype=np.float32),
    "weight": np.ones((2, 3), np.float32),
    "steps": np.array(7),
    "bias": np.zeros(3, np.float32),
    "scale": np.array([1.5, 2.5]),
}
PARTS = ModelParts(trainable=("weight", "bias"), buffers=("mean", "steps", "scale"), vectors=("v",))
ROW, BYTES, VECTOR = "|bias|weight|mean", "|steps|scale", "|bias|weight"


def layout(personal: tuple[str, ...] = ("weight",)) -> ArrayLayout:
    return ArrayLayout(ArrayRecord({name: Array(value) for name, value in MODEL.items()}), PARTS, personal)


NAMED, ROWS = layout(), layout().form(rows=True)
X, EXACT = NAMED.pack(MODEL), NAMED.pack_exact(MODEL)


@pytest.mark.parametrize("names", [["weight"], ["0.weight", "0.bias"]])
def test_names(names: list[str]) -> None:
    assert names_in(row_name(names)) == tuple(names)
    assert is_row([row_name(names)])
    assert not is_row(names)
    assert names_in("weight") == ()


@pytest.mark.parametrize("values", [*MODEL.values(), np.ones((2, 3, 4), order="F"), np.array([True]), np.empty(0)])
def test_arrays_have_the_bytes_of_flowers_own(values: np.ndarray[Any, Any]) -> None:
    made, expected = as_array(values), Array(np.ascontiguousarray(values) if values.ndim else values)
    assert (made.dtype, made.shape, made.stype, made.data) == (
        *(expected.dtype, expected.shape),
        *(expected.stype, expected.data),
    )


def test_a_model_comes_back() -> None:
    sent = ROWS.write(X, EXACT)
    assert {name: array.shape for name, array in sent.items()} == {ROW: (11,), BYTES: (24,)}
    row, exact = ROWS.read(sent)
    np.testing.assert_array_equal(row, X)
    np.testing.assert_array_equal(exact, EXACT)
    assert not row.flags.writeable  # a view of the message
    writable = Reply(TrainReport(1), row, exact).writable()
    assert writable.row is not None
    assert writable.momentum is None
    writable.row[:] = 0
    np.testing.assert_array_equal(row, X)
    assert NAMED.form(rows=False) is NAMED


def test_a_vector_comes_back() -> None:
    vector = np.arange(9, dtype=np.float32)
    sent = ROWS.parameter_arrays(vector)
    assert list(sent) == [VECTOR]
    np.testing.assert_array_equal(ROWS.parameter_row(sent), vector)
    np.testing.assert_array_equal(NAMED.parameter_row(NAMED.parameter_arrays(vector)), vector)


def test_what_an_honest_reply_holds() -> None:
    assert ROWS.expected.sizes == {ARRAYS: {ROW: 44, BYTES: 24}, MOMENTUM: {VECTOR: 36}, OPTIMIZER: {"v": 36}}


def test_names_with_the_separator_travel_by_name() -> None:
    odd = ArrayLayout(ArrayRecord({"a|b": Array(np.zeros(2, np.float32))}))
    assert list(odd.form(rows=True).write(np.zeros(2, np.float32), np.empty(0, np.uint8))) == ["a|b"]


NAN = np.array([1.5, np.nan])
FAULTS: dict[str, tuple[dict[str, np.ndarray[Any, Any]], str]] = {
    "NaN": (
        {ROW: X * np.where(np.arange(11) == 4, np.float32("nan"), 1)},
        "array weight holds values that are not fin",
    ),
    "NaN beside": (
        {BYTES: np.concatenate([EXACT[:8], NAN.view(np.uint8)])},
        "array scale holds values that are not fin",
    ),
    "shape": ({ROW: X[:5]}, r"a row of the model must be float32 \(11,\); got float32 \(5,\)"),
    "dtype": ({ROW: X.astype(np.int32)}, r"a row of the model must be float32 \(11,\); got int32 \(11,\)"),
    "bytes": ({BYTES: EXACT[:8]}, r"a row of the model must be uint8 \(24,\); got uint8 \(8,\)"),
    "more": ({"more": X}, "the arrays are not the row of the model and the bytes beside it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_other_rows(fault: str) -> None:
    changed, message = FAULTS[fault]
    sent: dict[str, Any] = {ROW: X, BYTES: EXACT, **changed}
    with pytest.raises(ValueError, match=message):
        ROWS.read(ArrayRecord({name: as_array(value) for name, value in sent.items()}))


def test_other_vectors() -> None:
    with pytest.raises(ValueError, match="the arrays are not a vector over the model's parameters"):
        ROWS.parameter_row(ArrayRecord({ROW: as_array(X)}))


def test_a_row_in_the_wrong_form_is_refused_before_it_is_read() -> None:
    for sent, expected in ((NAMED, ROWS), (ROWS, NAMED)):
        with pytest.raises(ValueError, match=r"unknown|has .* arrays"):
            unpack(RecordDict({ARRAYS: sent.write(X, EXACT)}), expected.expected)
