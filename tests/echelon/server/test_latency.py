"""The grace that latencies ask for."""

from typing import Any

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from echelon.protocol.messages import METRICS
from echelon.server.latency import Latencies, computing_seconds
from tests import tiny


def observed(*seconds: float, grace: float = 1000.0) -> Latencies:
    latencies = Latencies(len(seconds))
    for rank, value in enumerate(seconds):
        latencies.observe(rank, value, grace)
    return latencies


@pytest.mark.parametrize(
    ("seconds", "grace"),
    [
        ((1.0, 1.0, 1.0, 500.0), 30.0),
        ((40.0, 40.0, 40.0, 1.0), 60.0),
        ((10.0, 20.0, 30.0, 40.0), 45.0),
        ((10.0, 40.0), 60.0),
        ((100.0,), 150.0),
    ],
)
def test_three_quarters_of_the_workers_are_covered(seconds: tuple[float, ...], grace: float) -> None:
    assert observed(*seconds).grace(30.0) == grace


def test_unknown_workers_do_not_count() -> None:
    latencies = Latencies(8)
    assert latencies.grace(30.0) == 30.0
    latencies.observe(3, 40.0, 30.0)
    assert latencies.grace(30.0) == 60.0


def test_a_longer_latency_counts_at_once_and_a_shorter_one_by_halves() -> None:
    latencies = observed(40.0)
    latencies.observe(0, 80.0, 1000.0)
    assert latencies.seconds[0] == 80.0
    latencies.observe(0, 0.0, 1000.0)
    assert latencies.seconds[0] == 40.0


def test_one_observation_triples_the_grace_at_most() -> None:
    assert observed(1e9, grace=30.0).grace(30.0) == 90.0
    assert observed(100.0, grace=0.0).grace(0.0) == 150.0, "there is nothing to multiply"


@pytest.mark.parametrize(
    ("metrics", "seconds"),
    [
        ({"seconds": 2.5}, 2.5),
        ({"seconds": -1.0}, 0.0),
        ({"seconds": float("nan")}, 0.0),
        ({"seconds": float("inf")}, 0.0),
        ({"seconds": [1.0, 2.0]}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_report_that_cannot_be_true_takes_nothing_off(metrics: dict[str, Any], seconds: float) -> None:
    tiny.grid(1)  # makes this process a server
    assert computing_seconds(Message(RecordDict({METRICS: MetricRecord(metrics)}), 7, "train")) == seconds
    assert computing_seconds(Message(RecordDict(), 7, "train")) == 0.0
