"""Momentum and graphs on unlike shards: ``python -m benchmarks.experiments.unlike --root data --seeds 5``.

D-PSGD on a ring and on the one-peer schedule, each with local and with mixed momentum, for shards of two classes per
worker, Dirichlet 0.3 and IID shards. Fashion-MNIST, 10,000 training samples, 16 equal workers, one step per round.
Accuracies are means over the evaluations of the last third of the rounds, since single rounds differ by points;
differences to the first row are paired by seed, with their standard error.
"""

import json
from argparse import Namespace
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.experiments import measures
from benchmarks.experiments.runner import arguments, print_table, spread, sweep
from echelon.reports.run_folder import RunFolder

RESULTS = Path(__file__).parents[1] / "results" / "unlike.json"
COMMON = [
    *("task=fashion_mnist", "model=mlp", "task.train_limit=10000", "fleet=uniform", "work=full_batch", "workers=16"),
    *("rounds=150", "eval_every=10", "batch_size=32", "minibatch_size=32", "task.test_limit=1000", "strategy=d_psgd"),
    "evaluate_workers=all",
    *("learning_rate=0.05", "momentum=0.9", "weight_decay=0.0001", "topology=ring"),
]
SHARDS = {
    "two classes each": ["partitioner=shards", "partitioner.classes_per_worker=2"],
    "Dirichlet 0.3": ["partitioner=dirichlet", "partitioner.alpha=0.3"],
    "IID": ["partitioner=stratified"],
}
GRAPHS = {"ring": [], "one-peer": ["topology.schedule=one_peer"]}
MOMENTUM = {"local": [], "mixed": ["strategy.momentum_mixing=mixed"]}
CASES = {(graph, momentum): [*GRAPHS[graph], *MOMENTUM[momentum]] for graph, momentum in product(GRAPHS, MOMENTUM)}
_FIELDS = ("mean worker", "worst worker")


def main() -> None:
    """Run the sweep, print its tables and keep their numbers."""
    options = arguments(__doc__ or "")
    columns = ("graph", "momentum")
    found = {name: compare(name, keys, columns, CASES, options) for name, keys in SHARDS.items()}
    if options.overrides:
        return  # another experiment than the one that the documentation quotes
    RESULTS.write_text(f"{json.dumps(found, indent=1)}\n")


def compare(
    name: str,
    keys: list[str],
    columns: tuple[str, str],
    cases: Mapping[tuple[str, str], list[str]],
    options: Namespace,
) -> list[dict[str, object]]:
    """Run the cases, named by two columns, on one kind of shards; print and return their rows."""

    def place(case: tuple[str, str]) -> str:
        return "/".join(("unlike", name, *case)).replace(" ", "_")

    common = [*COMMON, f"task.root={options.root}", *keys]
    runs = sweep({place(case): [*common, *overrides] for case, overrides in cases.items()}, options)
    first = np.array([late(run) for run in runs[place(next(iter(cases)))]])
    rows: list[dict[str, object]] = []
    for case in cases:
        own = runs[place(case)]
        accuracy = np.array([late(run) for run in own])
        sent = spread([measures.peer_megabytes(run) for run in own], 2)
        rows.append({**dict(zip(columns, case, strict=True)), "MB/round": sent})
        for column, field in enumerate(_FIELDS):
            rows[-1][f"{field} %"] = spread(accuracy[:, column].tolist(), 1, 100)
            rows[-1][f"{field}, points"] = _difference(accuracy[:, column] - first[:, column])
    print(f"\n### {name}\n")
    print_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    return rows


def late(run: RunFolder) -> tuple[float, float]:
    """Return the late accuracies of the mean and of the worst worker."""
    return measures.late(run, "worker_accuracy", np.mean), measures.late(run, "worker_accuracy", np.min)


def _difference(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> str:
    """Return mean and standard error of paired differences, in points."""
    error = f" ± {100 * values.std(ddof=1) / np.sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():+.1f}{error}"


if __name__ == "__main__":
    main()
