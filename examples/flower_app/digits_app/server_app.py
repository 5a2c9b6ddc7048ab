"""The ServerApp: AL-DSGD, in which nobody waits for the slowest node."""

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from echelon.strategies import ALDSGD, NonBlocking

from .task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and print each evaluation."""
    torch.manual_seed(0)
    strategy = ALDSGD("ring", work=NonBlocking(batch_size=320, minibatch_size=16), eval_every=5)
    result = strategy.start(grid, ArrayRecord(Net().state_dict()), int(context.run_config["num-server-rounds"]))
    for number, metrics in result.evaluate_metrics_clientapp.items():
        print(f"round {number}: accuracy {metrics['accuracy']:.3f}")
