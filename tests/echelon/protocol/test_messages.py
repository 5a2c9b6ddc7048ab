import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from echelon.protocol.messages import (
    CONFIG,
    METRICS,
    NUM_EXAMPLES,
    RosterEntry,
    TrainInstructions,
    TrainReport,
    as_ndarray,
    num_bytes,
    shard_record,
)


def npy(values: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, values, **options)
    return file.getvalue()


def array(data: bytes) -> Array:
    return Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=data)


class TestRoundTrips:
    def test_instructions(self) -> None:
        said = TrainInstructions(7, 3, 2, 4, 64, 8, 40, 0, 1.5, 0.25, 0.1, 0.9, 1e-4, 0.2, 0.5, True, 5, 60, 12.5, True)
        assert TrainInstructions.from_config(said.to_config()) == said

    def test_instructions_of_a_server_that_gives_none(self) -> None:
        """Flower's FedAvg sends only the round and user-defined keys."""
        got = TrainInstructions.from_config(ConfigRecord({"server-round": 4, "learning_rate": 0.5, "own": "text"}))
        expected = TrainInstructions(server_round=4, learning_rate=0.5)
        assert [str(v) for v in vars(got).values()] == [str(v) for v in vars(expected).values()]

    def test_round_is_also_given_as_in_flower(self) -> None:
        assert TrainInstructions(server_round=9).to_config()["server-round"] == 9
        assert set(TrainInstructions().to_config()) == {*vars(TrainInstructions()), "server-round"}

    @given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 100), st.floats(0, 1e6), st.floats(0, 1e6))
    def test_report(self, examples: int, samples: int, minibatches: int, loss: float, seconds: float) -> None:
        report = TrainReport(examples, samples, minibatches, loss, seconds, 0.5, 2.0)
        assert TrainReport.from_metrics(report.to_metrics()) == report
        assert report.to_metrics()[NUM_EXAMPLES] == examples

    def test_report_of_a_foreign_client(self) -> None:
        got = TrainReport.from_metrics(MetricRecord({"num-examples": 5, "train_loss": 0.5, "own": [1, 2]}))
        assert got == TrainReport(num_examples=5, train_loss=0.5)

    def test_report_without_num_examples(self) -> None:
        with pytest.raises(KeyError, match="num-examples"):
            TrainReport.from_metrics(MetricRecord({"train_loss": 0.5}))

    @pytest.mark.parametrize("name", ["samples", "train_loss", NUM_EXAMPLES])
    def test_report_with_a_list(self, name: str) -> None:
        values: dict[str, Any] = {NUM_EXAMPLES: 5, name: [1, 2]}
        with pytest.raises(ValueError, match=r"metric [a-z_]+ must be one number; got a list of 2"):
            TrainReport.from_metrics(MetricRecord(values))

    def test_roster_entry(self) -> None:
        entry = RosterEntry(3, 100, 50.0, 0.64, 0.01, 1.25e8, "cuda")
        assert RosterEntry.from_content(entry.to_content()) == entry

    @pytest.mark.parametrize(
        "content",
        [
            RecordDict(),
            RecordDict({METRICS: MetricRecord({"rank": 1})}),
            RecordDict({CONFIG: ConfigRecord({"device": "cpu"})}),
            RecordDict({METRICS: MetricRecord({"samples": 1}), CONFIG: ConfigRecord({"device": "cpu"})}),
        ],
    )
    def test_what_is_no_roster_entry(self, content: RecordDict) -> None:
        with pytest.raises((KeyError, TypeError)):
            RosterEntry.from_content(content)

    def test_infinity_and_nan_survive(self) -> None:
        entry = RosterEntry.from_content(RosterEntry(0).to_content())
        assert math.isnan(entry.samples_per_second)
        assert math.isinf(entry.bandwidth)


class TestAsNdarray:
    @pytest.mark.parametrize(
        "values",
        [
            np.arange(6, dtype=np.float32).reshape(2, 3),
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.array(3, dtype=np.int64),
            np.array([True, False]),
            np.empty(0, dtype=np.float32),
            np.empty((0, 4), dtype=np.float32),
            np.arange(4, dtype=">f4"),
        ],
    )
    def test_reads_what_numpy_writes(self, values: NDArray[Any]) -> None:
        got = as_ndarray(Array(values))
        np.testing.assert_array_equal(got, values)
        assert got.dtype == values.dtype
        assert got.shape == values.shape

    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    def test_every_version_of_the_format(self, version: tuple[int, int]) -> None:
        np.testing.assert_array_equal(as_ndarray(array(npy(np.ones(3), version=version))), np.ones(3))

    def test_is_a_read_only_view(self) -> None:
        got = as_ndarray(Array(np.ones(3)))
        assert not got.flags.writeable
        assert not got.flags.owndata

    def test_a_long_header(self) -> None:
        """numpy pads headers to 64 bytes; structured types make them long."""
        dtype = np.dtype([(f"field{i:04d}", "f4") for i in range(100)])
        np.testing.assert_array_equal(as_ndarray(array(npy(np.zeros(2, dtype)))), np.zeros(2, dtype))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"not an array",
            npy(np.ones(3))[:-1],
            npy(np.ones(3)) + b"\0",
            npy(np.ones(3))[:40],
            npy(np.ones(3)).replace(b"(3,)", b"(4,)"),
            npy(np.ones(3)).replace(b"(3,)", b"-3, "),
            npy(np.ones(30)).replace(b"(30,)", b"(-1,)"),
            npy(np.ones(30)).replace(b"(30,)", b"(9**9"),
            npy(np.ones(30)).replace(b"(30,), }" + b" " * 12, b"(99999999999999,), }"),
            npy(np.ones(3)).replace(b"f8", b"??"),
            b"\x93NUMPY\x09\x00" + npy(np.ones(3))[8:],
        ],
    )
    def test_refuses_what_is_no_array(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=r"an array has no readable \.npy header|must have -?\d+ bytes"):
            as_ndarray(array(data))

    def test_refuses_objects(self) -> None:
        with pytest.raises(ValueError, match="must not contain Python objects"):
            as_ndarray(array(npy(np.array([{}], dtype=object), allow_pickle=True)))


def test_shard_record_is_int64() -> None:
    values = as_ndarray(shard_record(np.array([3, 1, 2], dtype=np.int32))["indices"])
    assert values.dtype == np.int64
    assert values.tolist() == [3, 1, 2]


def test_num_bytes_counts_all_arrays() -> None:
    record = ArrayRecord({"a": torch.zeros(3), "b": torch.zeros(2)})
    content = RecordDict({"arrays": record, "momentum": record, "config": ConfigRecord({"x": 1})})
    assert num_bytes(content) == 2 * (len(record["a"].data) + len(record["b"].data))
