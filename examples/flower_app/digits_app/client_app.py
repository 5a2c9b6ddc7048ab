"""The ClientApp: `Budget` lets its own training loop stop within the round."""

from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from echelon.clients import Budget

from .task import Net, evaluate, load_data
from .task import train as train_fn

app = ClientApp()


def _prepare(message: Message, context: Context) -> tuple[Net, Any, Any]:
    model = Net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    node, batch_size = context.node_config, int(context.run_config["batch-size"])
    return model, *load_data(int(node["partition-id"]), int(node["num-partitions"]), batch_size)


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train on this node's samples."""
    model, trainloader, _ = _prepare(msg, context)
    budget = Budget(msg.content["config"])
    train_loss = train_fn(
        model,
        budget.minibatches(trainloader),
        int(context.run_config["local-epochs"]),
        float(context.run_config["learning-rate"]),
    )
    metrics: dict[str, Any] = {
        "train_loss": train_loss,
        "num-examples": len(trainloader.dataset),
        **budget.report(),
    }
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=msg)


@app.evaluate()
def test(msg: Message, context: Context) -> Message:
    """Evaluate on this node's samples."""
    model, _, testloader = _prepare(msg, context)
    metrics: dict[str, Any] = {"accuracy": evaluate(model, testloader), "num-examples": len(testloader.dataset)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
