"""Overhead of a round on real processes, with and without persistent workers, beside Flower's own FedAvg.

    python -m benchmarks.deployment [--rounds 8] [--model resnet18]

A SuperLink and three SuperNodes on this machine (TLS, registered keys) run three apps sequentially: all_reduce
with persistent workers, the same with ``deployment.persistent_workers=false``, and Flower's FedAvg through
``send_and_receive`` (``benchmarks/flower_fedavg``). Each round trains the model for four batches of 32 digits on every
node. The overhead is the duration of the round minus the computing time of its slowest worker; the first round, which
starts the trainer processes, is reported separately. The exit status is 1 if the overhead with persistent workers
exceeds half of Flower's.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from echelon.deployment.loopback import Loopback

LIMIT = 0.5
NODES = 3
WORK = (
    *(f"workers={NODES}", "strategy=all_reduce", "partitioner=iid", "work=full_batch", "local_steps=4"),
    *(
        "batch_size=32",
        "minibatch_size=32",
        "learning_rate=0.05",
        "momentum=0",
        "eval_every=1000",
        "checkpoint_every=0",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--model", default="cnn")
    arguments = parser.parse_args()
    table = Table(
        "app",
        "first round, s",
        "computing, s",
        "overhead, s",
        "least",
        "most",
        title=f"{arguments.model}, {arguments.rounds} rounds",
    )
    overheads = {}
    with tempfile.TemporaryDirectory(prefix="echelon-") as name:
        folder = Path(name)
        with Loopback(folder) as deployment:
            nodes = [f"supernode-{rank}" for rank in range(NODES)]
            deployment.register(*nodes)
            for rank, node in enumerate(nodes):
                deployment.start_node(node, f"rank={rank} num-partitions={NODES}")
            for app in ("all_reduce, persistent", "all_reduce, not persistent", "Flower's FedAvg"):
                marks = run(deployment, folder, app, arguments.rounds, arguments.model)
                first, *rest = costs(marks)
                computing = median(mark["compute"] for mark in marks[1:])
                overheads[app] = median(rest)
                row = (first, computing, overheads[app], min(rest), max(rest))
                table.add_row(app, *(f"{seconds:.2f}" for seconds in row))
    Console(width=110).print(table)
    ratio = overheads["all_reduce, persistent"] / overheads["Flower's FedAvg"]
    print(f"persistent workers / Flower's FedAvg: {ratio:.2f} of the overhead, limit {LIMIT}")
    return int(ratio > LIMIT)


def run(deployment: Loopback, folder: Path, app: str, rounds: int, model: str) -> list[dict[str, float]]:
    """Run an app to completion; return the end of each round and the computing time of its slowest worker."""
    if app.startswith("Flower"):
        file = folder / "fedavg.jsonl"
        deployment.app = Path(__file__).resolve().parent / "flower_fedavg"
        following = deployment.run(rounds=str(rounds), model=model, out=str(file))
    else:
        file = folder / app.replace(", ", "-").replace(" ", "-") / "metrics.jsonl"
        persistent = str(app == "all_reduce, persistent").lower()
        overrides = [f"rounds={rounds}", f"model={model}", f"run_dir={file.parent}"]
        overrides.append(f"deployment.persistent_workers={persistent}")
        following = deployment.run(overrides=" ".join([*WORK, *overrides]))
    following.wait()
    if not file.exists():
        raise SystemExit(deployment.log("run"))
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(records) == rounds, f"{app} ended after {len(records)} of {rounds} rounds: {deployment.log('run')}"
    return [{"end": record["wall_seconds"], "compute": slowest(record["compute_seconds"])} for record in records]


def slowest(seconds: float | list[float]) -> float:
    return max(seconds) if isinstance(seconds, list) else seconds


def costs(marks: list[dict[str, float]]) -> list[float]:
    """Return the overhead of each round: its duration minus computing."""
    starts = [0.0, *(mark["end"] for mark in marks)]
    return [mark["end"] - start - mark["compute"] for start, mark in zip(starts, marks, strict=False)]


if __name__ == "__main__":
    sys.exit(main())
