"""Evaluations by the workers: averaged as FedAvg does, and named where they fail."""

import logging
from typing import Any

import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from clients import make_client_app, rank_of
from echelon.engines.inline import InlineGrid
from strategies import AllReduce
from tests import tiny

SAID: tuple[dict[str, Any], ...] = (
    {"num-examples": 10, "eval_loss": 1.0, "eval_acc": 0.5},
    {"num-examples": 30, "eval_loss": 2.0, "eval_acc": 1.0},
)


def grid(said: tuple[dict[str, Any], ...]) -> InlineGrid:
    """Workers of a client in the form of Flower's templates, with metrics of its own."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 10, "train_loss": 0.7})
        return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord(said[rank_of(context)])}), reply_to=message)

    return InlineGrid(app, len(said))


def run(said: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], tiny.Record]:
    records: list[tiny.Record] = []
    made = AllReduce(on_round=[lambda record, state: records.append(record)])
    result = made.start(grid(said), tiny.arrays(), num_rounds=1)
    return dict(result.evaluate_metrics_clientapp.get(1, {})), records[0]


def test_own_keys_are_averaged_as_fedavg_does() -> None:
    ours, record = run(SAID)
    theirs = FedAvg(min_available_nodes=2).start(grid(SAID), tiny.arrays(), num_rounds=1)
    assert ours == pytest.approx(dict(theirs.evaluate_metrics_clientapp[1]))
    assert ours == {"eval_acc": 0.875, "eval_loss": 1.75}
    assert sorted(record["worker_eval_acc"]) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"num-examples": 10, "eval_loss": float("nan"), "eval_acc": 0.5}, "its eval_loss must be a finite number"),
        ({"eval_loss": 1.0, "eval_acc": 0.5}, "its reply must hold num-examples, at least 0; got None"),
        ({"num-examples": -1, "eval_loss": 1.0, "eval_acc": 0.5}, "its reply must hold num-examples, at least 0"),
    ],
)
def test_a_worker_that_says_something_else_is_named(
    said: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ours, record = run((SAID[0], said))
    assert ours == {"eval_acc": 0.5, "eval_loss": 1.0}
    ((rank, found),) = record["evaluation_failures"].items()
    assert reason in found
    assert f"Worker {rank} has not evaluated: {reason}" in caplog.text


def test_an_evaluation_that_fails_is_named() -> None:
    def metrics(model: Any, batch: Any) -> dict[str, float]:
        raise OSError("no such sensor")

    records: list[tiny.Record] = []
    app = make_client_app(lambda rank, n: tiny.data(), tiny.linear, metrics=metrics, device="cpu")
    made = AllReduce(on_round=[lambda record, state: records.append(record)])
    result = made.start(InlineGrid(app, 2), tiny.arrays(), num_rounds=1)
    assert result.evaluate_metrics_clientapp == {}
    failures = records[0]["evaluation_failures"]
    assert sorted(failures) == [0, 1]
    assert all(
        "metrics(model, batch) has failed" in said and "OSError: no such sensor" in said for said in failures.values()
    )


def test_a_worker_without_samples_weighs_nothing() -> None:
    ours, record = run((SAID[0], {"num-examples": 0}))
    assert ours == {"eval_acc": 0.5, "eval_loss": 1.0}
    assert "evaluation_failures" not in record
