"""A ClientApp in the form of Flower's templates, without and with a Budget: the recipe of docs/client.md."""

import logging
from collections.abc import Collection
from functools import partial
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.utils.data import DataLoader, TensorDataset

from clients import Budget, rank_of
from echelon.engines.inline import InlineGrid
from strategies import ALDSGD, SGD, NonBlocking
from tests import tiny

# Seconds of a mini-batch of eight samples, by rank.
SECONDS = (1.0, 1.0, 2.0, 8.0)


def make_app(now: list[float], obey: Collection[int]) -> ClientApp:
    """A ClientApp whose clock, the number in ``now``, is moved on by training; it obeys at some ranks."""
    app = ClientApp()
    x, y = tiny.data()

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        model, rank = tiny.linear(), rank_of(context)
        model.load_state_dict(msg.content.array_records["arrays"].to_torch_state_dict())
        trainset = TensorDataset(x[rank::4], y[rank::4])
        loader = DataLoader(trainset, batch_size=8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        budget = Budget(msg.content.config_records["config"])
        losses = []
        for inputs, labels in budget.minibatches(loader) if rank in obey else loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
            now[0] += SECONDS[rank]
        report = budget.report() if rank in obey else {}
        metrics: dict[str, Any] = {
            "train_loss": sum(losses) / len(losses),
            "num-examples": len(trainset),
            **report,
        }
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)})
        return Message(content=content, reply_to=msg)

    return app


def run(monkeypatch: pytest.MonkeyPatch, obey: Collection[int]) -> list[tiny.Record]:
    now = [0.0]
    monkeypatch.setattr("echelon.core.clocks.time.perf_counter", lambda: now[0])
    grid = InlineGrid(make_app(now, obey), 4)
    # Ranks follow node ids, which a client without the handshake cannot tell the server.
    grid._contexts = dict(sorted(grid._contexts.items()))
    for rank, context in enumerate(grid._contexts.values()):
        context.node_config["partition-id"] = rank
    work = NonBlocking(batch_size=32, minibatch_size=8)
    return tiny.run(partial(ALDSGD, "ring"), 6, on=grid, work=work, sgd=SGD(0.2), partition=None).records


def test_it_stops_within_the_budget(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    records = run(monkeypatch, range(4))
    assert records[0]["minibatches"] == [4, 4, 4, 4], "speeds are not known yet"
    assert records[1]["minibatches"] == [4, 4, 2, 1]
    assert records[-1]["minibatches"] == [4, 4, 2, 1]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert all("whole_rounds" not in record and record["rejected"] == 0 for record in records)
    assert "whole rounds" not in caplog.text


@pytest.mark.parametrize("obey", [(0, 1, 2), ()])
def test_one_that_cannot_is_named_once(
    obey: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        records = run(monkeypatch, obey)
    others = sorted(set(range(4)) - set(obey))
    assert all(record["whole_rounds"] == others and record["rejected"] == 0 for record in records)
    assert [f"Worker {rank} has a client that does whole rounds" in caplog.text for rank in range(4)] == [
        rank in others for rank in range(4)
    ]
    assert caplog.text.count("does whole rounds") == len(others)
