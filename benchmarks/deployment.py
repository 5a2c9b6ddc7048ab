"""Overhead of a round on real processes: Echelon's nodes beside Flower's SuperNodes and Flower's own FedAvg.

    python -m benchmarks.deployment [--rounds 6] [--repeats 2] [--model resnet18] [--no-database] [--nodes 3]

Two SuperLinks on this machine (TLS, registered keys), one with Echelon's nodes, one with Flower's SuperNodes. Four
apps take turns: all_reduce on Echelon's nodes, the same with ``wire=bf16``, the first on Flower's SuperNodes (with
persistent workers), and Flower's FedAvg through ``send_and_receive`` (``benchmarks/flower_fedavg``) on these. Each
round trains the model for four batches of 32 digits on every node. The overhead is the duration of a round minus the
computing time of its slowest worker; the first round of each run, which starts processes, does not count. The CPU time
of the SuperLink's own process per round is reported beside it, and the machine's load. A line per app is appended to
``benchmarks/results/deployment.jsonl``. The exit status is 1 if the overhead on Echelon's nodes exceeds the limit.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from echelon.deployment.loopback import Loopback

FLOWER = "Flower's FedAvg"
OURS, STOCK = "all_reduce, echelon node", "all_reduce, flower-supernode"
BF16 = f"{OURS}, bf16"
LIMITS = {"cnn": 1 / 8, "resnet18": 1 / 5}
RESULTS = Path(__file__).with_name("results") / "deployment.jsonl"
WORK = (
    *("strategy=all_reduce", "partitioner=iid", "work=full_batch", "local_steps=4", "batch_size=32"),
    *("minibatch_size=32", "learning_rate=0.05", "momentum=0", "eval_every=1000", "checkpoint_every=0"),
)


@dataclass
class Measured:
    """What the rounds of an app took, in seconds, and the load of the machine at the end of each run."""

    overheads: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    superlink: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--no-database", action="store_true")
    parser.add_argument("--apps", nargs="+", default=[OURS, BF16, STOCK, FLOWER])
    arguments = parser.parse_args()
    measured = {app: Measured() for app in arguments.apps}
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="echelon-")))
        deployments = {
            stock: running.enter_context(deployed(folder, arguments, stock=stock))
            for stock in sorted({is_stock(app) for app in arguments.apps})
        }
        for repeat in range(arguments.repeats):
            for app in arguments.apps:
                run(deployments[is_stock(app)], folder / f"{repeat}", app, arguments, measured[app])
    show(measured, arguments)
    save(measured, arguments)
    limit, exceeded = LIMITS.get(arguments.model, 1.0), False
    for app in (OURS, BF16):
        if app in measured and FLOWER in measured:
            ratio = median(measured[app].overheads) / median(measured[FLOWER].overheads)
            print(f"{app} / {FLOWER}: {ratio:.3f} of the overhead, limit {limit:.3f}")
            exceeded |= ratio > limit
    return int(exceeded)


def is_stock(app: str) -> bool:
    """Return whether an app runs on Flower's SuperNodes."""
    return app not in (OURS, BF16)


def deployed(folder: Path, arguments: argparse.Namespace, *, stock: bool) -> Loopback:
    """Return a deployment whose nodes are started as soon as its SuperLink runs."""

    class Deployed(Loopback):
        def start_superlink(self) -> None:
            super().start_superlink()
            names = [f"supernode-{rank}" for rank in range(arguments.nodes)]
            self.register(*names)
            for rank, name in enumerate(names):
                self.start_node(name, f"rank={rank} num-partitions={arguments.nodes}", stock=stock)

    return Deployed(folder / ("stock" if stock else "ours"), database=not arguments.no_database)


def run(deployment: Loopback, folder: Path, app: str, arguments: argparse.Namespace, measured: Measured) -> None:
    """Run an app to completion, and add what its rounds took."""
    folder.mkdir(exist_ok=True)
    if app == FLOWER:
        file = folder / "fedavg.jsonl"
        deployment.app = Path(__file__).resolve().parent / "flower_fedavg"
        config = {"rounds": str(arguments.rounds), "model": arguments.model, "out": str(file)}
    else:
        file = folder / app.replace(", ", "-").replace(" ", "-") / "metrics.jsonl"
        deployment.app = Path(__file__).resolve().parents[1]
        overrides = [f"workers={arguments.nodes}", f"rounds={arguments.rounds}", f"model={arguments.model}"]
        overrides += ["wire=bf16"] if app == BF16 else []
        config = {"overrides": " ".join([*WORK, *overrides, f"run_dir={file.parent}"])}
    following = deployment.run(**config)
    before = None
    while following.poll() is None:
        if before is None and file.exists() and file.read_text().endswith("\n"):
            before = cpu_seconds(deployment.pid("superlink"))
        time.sleep(0.05)
    if not file.exists() or before is None:
        raise SystemExit(deployment.log("run"))
    spent = cpu_seconds(deployment.pid("superlink")) - before
    add(measured, [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()], spent, arguments.rounds)


def add(measured: Measured, records: list[dict[str, float]], superlink: float, rounds: int) -> None:
    """Add the rounds of a run, but for the first one."""
    assert len(records) == rounds, f"the run ended after {len(records)} of {rounds} rounds"
    computing = [slowest(record["compute_seconds"]) for record in records]
    ends = [record["wall_seconds"] for record in records]
    measured.overheads += [
        end - start - spent for start, end, spent in zip(ends, ends[1:], computing[1:], strict=False)
    ]
    measured.computing += computing[1:]
    measured.superlink.append(superlink / (rounds - 1))
    measured.loads.append(os.getloadavg()[0])


def slowest(seconds: float | list[float]) -> float:
    return max(seconds) if isinstance(seconds, list) else seconds


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(measured: dict[str, Measured], arguments: argparse.Namespace) -> None:
    """Print a table."""
    database = "without" if arguments.no_database else "with"
    title = f"{arguments.model}, {arguments.nodes} nodes, {database} database, median of rounds"
    columns = ("computing, s", "overhead, s", "least", "most", "SuperLink, CPU-s", "load")
    table = Table("app", *columns, title=title)
    for app, found in measured.items():
        row = (median(found.computing), median(found.overheads), min(found.overheads), max(found.overheads))
        table.add_row(app, *(f"{each:.2f}" for each in (*row, median(found.superlink), median(found.loads))))
    Console(width=120).print(table)


def save(measured: dict[str, Measured], arguments: argparse.Namespace) -> None:
    """Append a line per app to the results."""
    setting = {"flwr": version("flwr"), "cpus": os.cpu_count(), "model": arguments.model, "nodes": arguments.nodes}
    with RESULTS.open("a", encoding="utf-8") as file:
        for app, found in measured.items():
            numbers = {name: [round(each, 3) for each in values] for name, values in vars(found).items()}
            line = {**setting, "database": not arguments.no_database, "app": app, **numbers}
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
