"""D-PSGD over the workers; writes a line per round."""

import json
from pathlib import Path

import faulty_model
from echelon.strategies import DPSGD, NonBlocking
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp

from echelon.persistent import processes

app = ServerApp()


@app.main()
def main(grid, context):
    processes.end_with_parent()
    out = Path(context.run_config["out"])

    def tell(record, state):
        with out.open("a") as file:
            file.write(json.dumps({name: record[name] for name in ("round", "present", "rejected", "wall_seconds")}))
            file.write("\n")

    strategy = DPSGD(
        "complete",
        work=NonBlocking(batch_size=4, minibatch_size=2, trigger="deadline", deadline=1.0),
        num_workers=3,
        grace_seconds=25.0,
        on_round=[tell],
    )
    arrays = ArrayRecord(faulty_model.build_model().state_dict())
    strategy.start(grid, arrays, 1000, evaluate_fn=lambda server_round, model: None)
