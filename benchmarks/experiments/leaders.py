"""Effect of leaders and rotation: ``python -m benchmarks.experiments.leaders --root data``.

D-PSGD and MATCHA (communication budget 0.5), each with and without AL-DSGD's leaders and with and without rotating
graphs, on G0 and on a ring, with IID and with label-skewed shards; and the released code's alternating matchings.
Fashion-MNIST, 10,000 training samples, eight equal workers.
"""

from argparse import Namespace
from itertools import product

import numpy as np

from benchmarks.experiments import measures
from benchmarks.experiments.runner import arguments, print_table, spread, sweep
from echelon.reports.run_folder import RunFolder

COMMON = [
    *("task=fashion_mnist", "model=mlp", "task.train_limit=10000", "fleet=uniform", "work=full_batch"),
    *("rounds=150", "eval_every=50", "batch_size=32", "minibatch_size=32", "task.test_limit=2000"),
    *("learning_rate=0.05", "momentum=0.9", "weight_decay=0.0001"),
]
SHARDS = {
    "iid": ["partitioner=stratified"],
    "label_skewed": ["partitioner=shards", "partitioner.classes_per_worker=2"],
}
GRAPHS = {
    ("g0", "static"): ["topology=g0"],
    ("g0", "rotating"): ["topology=g0_rotating"],
    ("ring", "static"): ["topology=ring"],
    ("ring", "rotating"): ["topology=ring", "topology.schedule=rotation", "topology.rotate=3"],
}
PAPER = ["strategy=al_dsgd", "strategy.signal=train_loss"]
RULES = {
    ("d_psgd", "no leaders"): ["strategy=d_psgd"],
    ("d_psgd", "leaders"): [*PAPER, "strategy.base=d_psgd"],
    ("matcha", "no leaders"): ["strategy=matcha"],
    ("matcha", "leaders"): [*PAPER, "strategy.base=matcha"],
}


def main() -> None:
    """Run the sweeps and print their tables."""
    options = arguments(__doc__ or "")
    common = [*COMMON, f"task.root={options.root}"]
    for shards, keys in SHARDS.items():
        _compare(shards, [*common, *keys], options)
    _legacy([*common, *SHARDS["iid"]], options)


def _compare(shards: str, keys: list[str], options: Namespace) -> None:
    def place(graph: tuple[str, str], rule: tuple[str, str]) -> str:
        return "/".join(("leaders", shards, *graph, *rule)).replace(" ", "_")

    cases = list(product(GRAPHS, RULES))
    runs = sweep({place(g, r): [*keys, *GRAPHS[g], *RULES[r]] for g, r in cases}, options)
    print(f"\n### {shards} shards\n")
    heads = ("graph", "rule", "leaders", "consensus %", "mean worker %", "worst worker %", "distance", "MB/round")
    print_table(heads, [_row(g, r, runs[place(g, r)]) for g, r in cases])


def _row(graph: tuple[str, str], rule: tuple[str, str], runs: list[RunFolder]) -> list[str]:
    def accuracy(key: str) -> str:
        return spread([measures.final(run, key) for run in runs], 1, 100)

    return [
        " ".join(graph),
        rule[0],
        "yes" if rule[1] == "leaders" else "no",
        accuracy("consensus_accuracy"),
        accuracy("worker_accuracy_mean"),
        accuracy("worker_accuracy_min"),
        spread([float(run.metrics[-1]["consensus_distance"]) for run in runs], 3),
        spread([measures.peer_megabytes(run) for run in runs], 2),
    ]


def _legacy(keys: list[str], options: Namespace) -> None:
    """Show the bug of the released D-PSGD: alternating two matchings disconnects workers 0 and 4 from the others."""
    schedules = {"every edge": [], "legacy_alternating": ["topology.schedule=legacy_alternating"]}
    variants = {
        f"leaders/legacy/{name.replace(' ', '_')}": [*keys, "strategy=d_psgd", "topology=g0", *own]
        for name, own in schedules.items()
    }
    runs = sweep(variants, options)
    print("\n### The released code's alternating matchings, iid shards\n")
    rows = []
    for name, own in zip(schedules, runs.values(), strict=True):
        accuracy = np.array([measures.last(run, "worker_accuracy") for run in own])
        isolated, others = accuracy[:, [0, 4]].mean(axis=1), accuracy[:, [1, 2, 3, 5, 6, 7]].mean(axis=1)
        rows.append([name, spread(isolated, 1, 100), spread(others, 1, 100), spread(others - isolated, 1, 100)])
    print_table(("schedule", "workers 0 and 4, %", "the other six, %", "gap, points"), rows)


if __name__ == "__main__":
    main()
