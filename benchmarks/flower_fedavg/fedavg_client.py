"""A typical Flower client: every message loads the data, builds the model and trains."""

import time

import torch
from echelon.tasks import load
from echelon.tasks.base import Shape
from echelon.tasks.models import build_model
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn import functional

BATCHES, BATCH = 4, 32

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train four steps on this node's part of digits."""
    rank, workers = int(context.node_config["rank"]), int(context.node_config["num-partitions"])
    data = load("digits").train
    model = build_model(str(context.run_config["model"]), Shape((1, 8, 8), 10))
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(
        model.parameters(), lr=float(str(message.content.config_records["config"]["lr"])), momentum=0.9
    )
    mine = torch.arange(rank, len(data), workers)
    began = time.monotonic()
    for indices in torch.split(mine[torch.randperm(len(mine))][: BATCHES * BATCH], BATCH):
        x, y = data.batch(indices)
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(mine), "seconds": time.monotonic() - began})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)
