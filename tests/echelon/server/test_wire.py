"""``wire=bf16``: rounding is bounded, never lost in the server's models, and a matter of training messages alone."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.checks import check
from conf import ConfigError, compose
from echelon.core.bf16 import UNIT_ROUNDOFF, from_words, lengthen, shorten, to_words
from echelon.core.layout import ModelParts
from echelon.engines.inline import InlineGrid
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import ARRAYS, METRICS, MOMENTUM, OPTIMIZER, TrainReport, as_array
from echelon.protocol.wire import differences, lengthened
from echelon.server import checkpoint
from echelon.server.replies import RejectedReplyError, Reply, read_content
from strategies import DPSGD, SGD, AllReduce, FedBuff, NonBlocking
from tests import tiny
from tests.grids import LateGrid

SGD_ = SGD(0.1, momentum=0.9, weight_decay=0.01)
PARTS = ModelParts(trainable=("weight",), buffers=("mean",))
MODEL = {"weight": np.array([1.003, -2.0], np.float32), "mean": np.array([1.003], np.float32)}
LAYOUT = ArrayLayout(ArrayRecord({name: Array(value) for name, value in MODEL.items()}), PARTS)
WORDS = LAYOUT.form(rows=True, bf16=True)
NO_BYTES = np.empty(0, np.uint8)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)


@given(arrays(np.uint32, 64))
def test_rounds_as_torch_does(bits: np.ndarray[Any, Any]) -> None:
    values = bits.view(np.float32)
    expected = torch.from_numpy(values.copy()).bfloat16().float().numpy()
    np.testing.assert_array_equal(lengthen(shorten(values)), expected)


@given(arrays(np.float32, 8, elements=floats), st.integers(0, 8))
def test_only_the_first_values_of_a_row_are_rounded(row: np.ndarray[Any, Any], count: int) -> None:
    found = from_words(to_words(row, count), count)
    np.testing.assert_array_equal(found[count:], row[count:])
    assert (np.abs(found - row) <= UNIT_ROUNDOFF * np.abs(row) + 1e-38).all()


def trained(sent: ArrayRecord, step: float) -> RecordDict:
    """The reply of a worker that adds ``step`` to all that it gets, its buffer too."""
    content = lengthened(RecordDict({ARRAYS: sent}), 2)
    assert content is not None
    moved = {name: as_array(array.numpy() + np.float32(step)) for name, array in content.array_records[ARRAYS].items()}
    report = TrainReport(4, samples=4, minibatches=1, seconds=1.0)
    return differences(RecordDict({ARRAYS: ArrayRecord(moved), METRICS: report.to_metrics()}), content, 2)


def test_a_model_by_hand() -> None:
    """1.003 goes as 1; the worker sends the step alone, and the server adds it to 1.003. The buffer stays exact."""
    x = LAYOUT.pack(MODEL)
    sent = WORDS.write(x, NO_BYTES)
    assert {name: (array.dtype, array.shape) for name, array in sent.items()} == {"|weight|mean": ("uint16", (4,))}
    np.testing.assert_array_equal(WORDS.read(sent)[0], np.array([1.0, -2.0, 1.003], np.float32))
    reply = read_content(trained(sent, 2.0**-12), WORDS, 4).made_whole(WORDS, x, None)
    np.testing.assert_array_equal(reply.row, x + np.float32(2.0**-12))


@settings(max_examples=8, deadline=None)
@given(arrays(np.float32, 2, elements=st.floats(-100, 100, width=32)), st.floats(1e-6, 1.0))
def test_steps_below_the_resolution_add_up(start: np.ndarray[Any, Any], step: float) -> None:
    """After 100 rounds each value has moved by the sum of its steps, up to the bound of docs/deployment.md."""
    x = np.append(start, np.float32(0))
    for _ in range(100):
        x = np.array(read_content(trained(WORDS.write(x, NO_BYTES), step), WORDS, 4).made_whole(WORDS, x, None).row)
    moved = 100 * step
    # The worker's own float32 rounds its model, and so does the server's, once per round.
    own = 200 * 2.0**-24 * (np.abs(start) + moved)
    assert (np.abs(x[:2] - start - moved) <= 1.01 * UNIT_ROUNDOFF * moved + own).all()


@pytest.mark.parametrize("make", [AllReduce, partial(DPSGD, "ring"), FedBuff])
def test_the_bound_in_training(make: Any) -> None:
    """Models differ from those of fp32 by about what bfloat16 resolves; each value travels in half the bytes."""
    exact, short = (tiny.run(make, 20, sgd=SGD_, wire=wire) for wire in ("fp32", "bf16"))
    assert not (exact.rows == short.rows).all()
    assert np.abs(exact.rows - short.rows).max() < 2 * UNIT_ROUNDOFF * np.abs(exact.rows).max()
    for name in ("downlink_bytes", "uplink_bytes"):
        saved = sum(exact.column(name)) - sum(short.column(name))
        assert saved > 0
        assert saved % (2 * 2 * 18) == 0  # two bytes of each of 18 parameters and of their momentum, per message
    assert exact.column("peer_bytes") == short.column("peer_bytes")


def test_a_variance_does_not_become_negative() -> None:
    """A rounded difference from 0.998 to nearly 0 would: buffers travel as values, with their bits."""
    run = tiny.run(AllReduce, 8, model=tiny.batch_norm, sgd=SGD_, wire="bf16")
    arrays_ = run.result.arrays
    assert arrays_ is not None
    assert (arrays_["1.running_var"].numpy() > 0).all()


def test_fp32_is_as_without_the_option() -> None:
    plain, named = tiny.run(AllReduce, 3, sgd=SGD_), tiny.run(AllReduce, 3, sgd=SGD_, wire="fp32")
    np.testing.assert_array_equal(plain.rows, named.rows)
    assert plain.column("downlink_bytes") == named.column("downlink_bytes")


def test_clients_with_named_arrays_keep_fp32(caplog: pytest.LogCaptureFixture) -> None:
    grids = [InlineGrid(tiny.app(devices=tiny.fleet(1, 1), mods=[tiny.as_it_is]), 2) for _ in range(2)]
    exact, short = (
        tiny.run(AllReduce, 2, 2, on=grid, sgd=SGD_, wire=wire)
        for grid, wire in zip(grids, ("fp32", "bf16"), strict=True)
    )
    np.testing.assert_array_equal(exact.rows, short.rows)
    said = [record.getMessage() for record in caplog.records if "wire=bf16" in record.getMessage()]
    assert [line.split(";")[0][-16:] for line in said] == ["worker 0 in fp32", "worker 1 in fp32"]


def test_a_late_difference_counts_from_the_row_that_was_sent() -> None:
    """Worker 1's reply to round 1 arrives in round 3; in fp32 the same models come out, up to rounding."""

    def late(wire: str) -> tiny.Run:
        grid = LateGrid(tiny.app(devices=tiny.fleet(1, 1, 1)), 3, lambda rank, number, kind: (rank, number) == (1, 1))

        def release(record: tiny.Record, state: Any) -> None:
            if record["round"] == 2:
                grid.release()

        options: dict[str, Any] = {"fold_late": True, "grace_seconds": 0.0, "adapt_grace": False, "on_round": [release]}
        work = NonBlocking(batch_size=16, minibatch_size=4, trigger="deadline", deadline=0.3)
        make = partial(DPSGD, "complete")
        return tiny.run(make, 4, 3, on=grid, work=work, sgd=SGD_, wire=wire, **options)

    exact, short = late("fp32"), late("bf16")
    assert exact.column("late") == short.column("late")
    assert any(exact.column("late"))
    np.testing.assert_allclose(short.rows, exact.rows, atol=0.02)


@pytest.mark.parametrize("make", [AllReduce, partial(DPSGD, "ring", momentum_mixing="quasi_global"), FedBuff])
def test_a_resumed_run_ends_with_the_same_bits(make: Any, tmp_path: Path) -> None:
    run = partial(tiny.run, make, model=tiny.batch_norm, sgd=SGD_, wire="bf16")

    def save(record: tiny.Record, state: Any) -> None:
        if state.round == 3:
            checkpoint.save(state, tmp_path)

    whole = run(6, on_round=[save])
    resumed = run(6, state=checkpoint.load(tmp_path))
    for name in ("rows", "momentum", "exact"):
        np.testing.assert_array_equal(getattr(whole.strategy.state, name), getattr(resumed.strategy.state, name))


def test_the_state_of_adam_travels_in_full() -> None:
    parts = ModelParts(trainable=("weight",), buffers=("mean",), vectors=("exp_avg_sq",))
    layout = ArrayLayout(ArrayRecord({name: Array(value) for name, value in MODEL.items()}), parts)
    sizes = layout.form(rows=True, bf16=True).expected.sizes
    assert sizes == {ARRAYS: {"|weight|mean": 8}, MOMENTUM: {"|weight": 4}, OPTIMIZER: {"exp_avg_sq": 8}}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros(3, np.float32), r"a row of the model must be uint16 \(4,\); got float32 \(3,\)"),
        (np.zeros(3, np.uint16), r"a row of the model must be uint16 \(4,\); got uint16 \(3,\)"),
        (np.array([0, 0x7FC0, 0, 0], np.uint16), "array weight holds values that are not finite"),
        (np.array([0, 0xFF80, 0, 0], np.uint16), "array weight holds values that are not finite"),
    ],
)
def test_other_replies_are_refused(values: np.ndarray[Any, Any], reason: str) -> None:
    arrays_ = ArrayRecord({"|weight|mean": as_array(values)})
    content = RecordDict({ARRAYS: arrays_, METRICS: TrainReport(4, samples=4, minibatches=1).to_metrics()})
    with pytest.raises(RejectedReplyError, match=reason):
        read_content(content, WORDS, 4)


def test_words_are_refused_where_values_are_due() -> None:
    sent = WORDS.write(LAYOUT.pack(MODEL), NO_BYTES)
    with pytest.raises(ValueError, match=r"must be float32 \(3,\); got uint16 \(4,\)"):
        LAYOUT.form(rows=True).read(sent)


def test_a_sum_that_overflows_is_refused() -> None:
    huge = np.array([3e38, 0, 0], np.float32)
    with pytest.raises(RejectedReplyError, match="its difference makes a model that is not finite"):
        Reply(TrainReport(4), huge).made_whole(WORDS, huge, None)


def test_wrong_choices() -> None:
    with pytest.raises(ValueError, match=r"^wire must be fp32 or bf16; got fp16$"):
        AllReduce(wire="fp16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^wire must be fp32 with engine=torch, .*; got bf16$"):
        check(compose(["engine=torch", "wire=bf16"]))
