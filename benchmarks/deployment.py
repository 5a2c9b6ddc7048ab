"""Overhead of a round on real processes: Echelon's nodes beside Flower's SuperNodes and Flower's own FedAvg.

    python -m benchmarks.deployment [--rounds 6] [--repeats 2] [--model cnn] [--nodes 3] [--database disk memory none]

SuperLinks on this machine (TLS, registered keys), one with Echelon's nodes and one with Flower's SuperNodes for each
place of the database: on disk, on a file system in memory (``/dev/shm``), or none. Four apps take turns: all_reduce on
Echelon's nodes, the same with ``wire=bf16``, the first on Flower's SuperNodes (with persistent workers), and Flower's
FedAvg through ``send_and_receive`` (``benchmarks/flower_fedavg``) on these. Each round trains the model for four
batches of 32 digits on every node. The overhead is the duration of a round minus the computing time of its slowest
worker; the first round of each run, which starts processes, does not count. The CPU time of the SuperLink's own process
per round is reported beside it, the size of the database after each round, and the machine's load. A line per app and
place is appended to ``benchmarks/results/deployment.jsonl``. The exit status is 1 if the overhead on Echelon's nodes
exceeds the limit.
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
DATABASES = ("disk", "memory", "none")
RESULTS = Path(__file__).with_name("results") / "deployment.jsonl"
WORK = (
    *("strategy=all_reduce", "partitioner=iid", "work=full_batch", "local_steps=4", "batch_size=32"),
    *("minibatch_size=32", "learning_rate=0.05", "momentum=0", "eval_every=1000", "checkpoint_every=0"),
)


@dataclass
class Measured:
    """What the rounds of an app took, in seconds.

    Beside them the SuperLink's CPU seconds per round of each run, the size of its database after each round (of the
    first repeat), and the load of the machine at the end of each run.
    """

    overheads: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    superlink: list[float] = field(default_factory=list)
    database_mb: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)


Results = dict[tuple[str, str], Measured]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--database", nargs="+", choices=DATABASES, default=["disk"])
    parser.add_argument("--apps", nargs="+", default=[OURS, BF16, STOCK, FLOWER])
    arguments = parser.parse_args()
    measured = {(app, place): Measured() for app in arguments.apps for place in arguments.database}
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="echelon-")))
        memory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="echelon-", dir="/dev/shm")))
        deployments = {
            (stock, place): running.enter_context(deployed(folder, memory, arguments, stock=stock, place=place))
            for stock in sorted({is_stock(app) for app in arguments.apps})
            for place in arguments.database
        }
        for repeat in range(arguments.repeats):
            for (app, place), found in measured.items():
                run(deployments[is_stock(app), place], folder / f"{repeat}-{place}", app, arguments, found)
    show(measured, arguments)
    save(measured, arguments)
    places = [place for place in arguments.database if exceeded(measured, place, arguments.model)]
    return int(bool(places))


def exceeded(measured: Results, place: str, model: str) -> bool:
    """Print the overheads of Echelon's nodes beside Flower's; return whether one exceeds the limit."""
    limit, too_long = LIMITS.get(model, 1.0), False
    for app in (OURS, BF16):
        if (app, place) in measured and (FLOWER, place) in measured:
            ratio = median(measured[app, place].overheads) / median(measured[FLOWER, place].overheads)
            print(f"{app} / {FLOWER}, database {place}: {ratio:.3f} of the overhead, limit {limit:.3f}")
            too_long |= ratio > limit
    return too_long


def is_stock(app: str) -> bool:
    """Return whether an app runs on Flower's SuperNodes."""
    return app not in (OURS, BF16)


def deployed(folder: Path, memory: Path, arguments: argparse.Namespace, *, stock: bool, place: str) -> Loopback:
    """Return a deployment whose nodes are started as soon as its SuperLink runs."""
    name = f"{'stock' if stock else 'ours'}-{place}"

    class Deployed(Loopback):
        def start_superlink(self) -> None:
            super().start_superlink()
            names = [f"supernode-{rank}" for rank in range(arguments.nodes)]
            self.register(*names)
            for rank, name in enumerate(names):
                self.start_node(name, f"rank={rank} num-partitions={arguments.nodes}", stock=stock)

    return Deployed(folder / name, database=memory / f"{name}.db" if place == "memory" else place == "disk")


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
    before, sizes = None, list[float]()
    while following.poll() is None:
        finished = file.read_text().count("\n") if file.exists() else 0
        if before is None and finished:
            before = cpu_seconds(deployment.pid("superlink"))
        sizes += [megabytes(deployment.database)] * (finished - len(sizes))
        time.sleep(0.05)
    if not file.exists() or before is None:
        raise SystemExit(deployment.log("run"))
    spent = cpu_seconds(deployment.pid("superlink")) - before
    measured.database_mb = measured.database_mb or sizes
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


def megabytes(database: Path | None) -> float:
    """Return the size of a database, with what has been written ahead; 0 without one."""
    return (
        0.0
        if database is None
        else sum(file.stat().st_size for file in database.parent.glob(f"{database.name}*")) / 1e6
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(measured: Results, arguments: argparse.Namespace) -> None:
    """Print a table."""
    title = f"{arguments.model}, {arguments.nodes} nodes, median of rounds"
    columns = ("computing, s", "overhead, s", "least", "most", "SuperLink, CPU-s", "load", "MB, first round", "last")
    table = Table("app", "database", *columns, title=title)
    for (app, place), found in measured.items():
        row = (median(found.computing), median(found.overheads), min(found.overheads), max(found.overheads))
        sizes = (found.database_mb[0], found.database_mb[-1])
        cells = (*row, median(found.superlink), median(found.loads), *sizes)
        table.add_row(app, place, *(f"{each:.2f}" for each in cells))
    Console(width=140).print(table)


def save(measured: Results, arguments: argparse.Namespace) -> None:
    """Append a line per app and place to the results."""
    setting = {"flwr": version("flwr"), "cpus": os.cpu_count(), "model": arguments.model, "nodes": arguments.nodes}
    with RESULTS.open("a", encoding="utf-8") as file:
        for (app, place), found in measured.items():
            numbers = {name: [round(each, 3) for each in values] for name, values in vars(found).items()}
            line = {**setting, "database": place, "app": app, **numbers}
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
