"""A typical Flower FedAvg server; appends one line per round to the file ``out``."""

import json
import time
from pathlib import Path

from echelon.tasks.base import Shape
from echelon.tasks.models import build_model
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for ``rounds`` rounds."""
    out = Path(str(context.run_config["out"]))
    computing: list[float] = []

    def slowest(replies: list[RecordDict], weighted_by_key: str) -> MetricRecord:
        computing.append(max(float(str(reply["metrics"]["seconds"])) for reply in replies))
        return MetricRecord({"seconds": computing[-1]})

    def tell(server_round: int, arrays: ArrayRecord) -> None:
        if server_round:
            line = {"round": server_round, "wall_seconds": time.monotonic() - began, "compute_seconds": computing[-1]}
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3, train_metrics_aggr_fn=slowest)
    arrays = ArrayRecord(build_model(str(context.run_config["model"]), Shape((1, 8, 8), 10)).state_dict())
    began = time.monotonic()
    rounds = int(str(context.run_config["rounds"]))
    strategy.start(grid, arrays, rounds, train_config=ConfigRecord({"lr": 0.05}), evaluate_fn=tell)
