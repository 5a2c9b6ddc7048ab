"""Momentum, corrections and graphs on unlike shards: ``python -m benchmarks.experiments.unlike --root data --seeds 5``.

D-PSGD on a ring and on the one-peer schedule, each with every mixing of momentum and with tracking, for shards of two
classes per worker, Dirichlet 0.3 and IID shards of Fashion-MNIST, 10,000 training samples, and for heartbeats by
patient. 16 equal workers, one step per round.
"""

from itertools import product
from pathlib import Path

from benchmarks.experiments import measures
from benchmarks.experiments.paired import WORKERS, Case, compare
from benchmarks.experiments.runner import arguments, keep

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
    "MIT-BIH by patient": ["task=mitbih", "model=cnn1d", "partitioner=by_group"],
}
GRAPHS = {"ring": [], "one-peer": ["topology.schedule=one_peer"]}
METHODS = {
    ("local", "none"): [],
    ("mixed", "none"): ["strategy.momentum_mixing=mixed"],
    ("quasi_global", "none"): ["strategy.momentum_mixing=quasi_global"],
    ("local", "tracking"): ["strategy.correction=tracking"],
    ("mixed", "tracking"): ["strategy.momentum_mixing=mixed", "strategy.correction=tracking"],
}


def main() -> None:
    """Run the sweep, print its tables and keep their numbers."""
    options = arguments(__doc__ or "")
    found = {}
    for name, keys in SHARDS.items():
        common = [*COMMON, f"task.root={options.root}", *keys]
        cases: dict[Case, list[str]] = {
            (graph, *method): [*common, *GRAPHS[graph], *METHODS[method]] for graph, method in product(GRAPHS, METHODS)
        }
        others = {"MB/round": measures.peer_megabytes}
        found[name] = compare(
            f"unlike/{name}",
            ("graph", "momentum", "correction"),
            cases,
            options,
            accuracies=WORKERS,
            others=others,
        )
    keep(RESULTS, options, found)


if __name__ == "__main__":
    main()
