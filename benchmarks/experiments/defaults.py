"""Graph, momentum and leaders of the default run: ``python -m benchmarks.experiments.defaults --root data --seeds 5``.

What the default configuration could be, on its fleet and with its non-blocking work, for IID shards and for two classes
per worker. Fashion-MNIST, 10,000 training samples, eight workers.
"""

from pathlib import Path

from benchmarks.experiments import measures
from benchmarks.experiments.gate import COMMON, LEADERS, SITUATIONS
from benchmarks.experiments.paired import CONSENSUS, WORKERS, Case, compare
from benchmarks.experiments.runner import arguments, keep

RESULTS = Path(__file__).parents[1] / "results" / "defaults.json"
SHARDS = {
    "IID": ["partitioner=stratified"],
    "two classes each": ["partitioner=shards", "partitioner.classes_per_worker=2"],
}
GRAPHS = {"rotating G0": ["topology=g0_rotating"], "one-peer": ["topology=ring", "topology.schedule=one_peer"]}
MOMENTUM = {"local": [], "mixed": ["strategy.momentum_mixing=mixed"]}
CASES = (
    ("rotating G0", "none", "local"),
    ("rotating G0", "none", "mixed"),
    ("rotating G0", "held_out, gate", "local"),
    ("rotating G0", "held_out, gate", "mixed"),
    ("one-peer", "none", "local"),
    ("one-peer", "none", "mixed"),
    ("one-peer", "held_out, gate", "mixed"),
)


def main() -> None:
    """Run the sweep, print its tables and keep their numbers."""
    options = arguments(__doc__ or "")
    found = {}
    for name, keys in SHARDS.items():
        common = [*COMMON, f"task.root={options.root}", *SITUATIONS["stragglers"], *keys]
        cases: dict[Case, list[str]] = {
            (graph, leaders, momentum): [*common, *LEADERS[leaders], *GRAPHS[graph], *MOMENTUM[momentum]]
            for graph, leaders, momentum in CASES
        }
        found[name] = compare(
            f"defaults/{name}",
            ("graph", "leaders", "momentum"),
            cases,
            options,
            accuracies={**CONSENSUS, **WORKERS},
            others={"MB/round": measures.peer_megabytes},
        )
    keep(RESULTS, options, found)


if __name__ == "__main__":
    main()
