"""Quality of submodular partitions, compared with random ones and the literal rule of the paper.

    python -m benchmarks.partition_quality --root DATA [--tasks digits fashion_mnist cifar10] [--features raw pca50]

Reports the mean over workers and classes of MMD^2 between a worker's part of a class and the class, divided by the
average of random parts of the same sizes. It is measured in the features of the partitioner, and for pca50 (default
rule only) also in raw pixels.
"""

import argparse
import time

import numpy as np
from rich.console import Console
from rich.table import Table

import tasks
from echelon.algorithms.seeds import rng
from partitioners import Partitioner, StratifiedPartitioner, SubmodularPartitioner, quality
from partitioners.submodular.features import pca

RATIOS = {"1,1,1,1,2,2,4,4": (1, 1, 1, 1, 2, 2, 4, 4), "equal": (1,) * 8}
RULES: dict[str, Partitioner] = {
    "random (stratified)": StratifiedPartitioner(),
    "facility location, units": SubmodularPartitioner("facility_location", "units"),
    "facility location, fill": SubmodularPartitioner("facility_location", "fill"),
    "facility location, min_value (paper)": SubmodularPartitioner("facility_location", "min_value"),
    "graph cut, units": SubmodularPartitioner("graph_cut", "units"),
    "graph cut, fill": SubmodularPartitioner("graph_cut", "fill"),
    "graph cut, min_value (paper)": SubmodularPartitioner("graph_cut", "min_value"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="data")
    parser.add_argument("--tasks", nargs="+", default=["digits", "fashion_mnist", "cifar10"])
    parser.add_argument("--features", nargs="+", choices=["raw", "pca50"], default=["raw", "pca50"])
    parser.add_argument("--train-limit", type=int)
    arguments = parser.parse_args()
    for name in arguments.tasks:
        split = tasks.load(name, arguments.root, train_limit=arguments.train_limit).train
        for features in arguments.features:
            for ratios in RATIOS:
                compare(name, split.features(), split.y.numpy(), features, ratios)


def compare(name: str, raw: np.ndarray, labels: np.ndarray, features: str, ratios: str) -> None:
    compared = raw if features == "raw" else pca(raw, 50, rng(0, "features"))
    table = Table(title=f"{name}, {features} features, ratios {ratios}")
    for heading in ("rule", "MMD² / random", "worst", "in raw pixels", "coverage", "1-NN", "CPU-s"):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    for rule, partitioner in RULES.items():
        if features != "raw" and rule.endswith(("fill", "(paper)")):
            continue
        began = time.process_time()
        parts = partitioner(labels, RATIOS[ratios], rng(0, "partition"), compared)
        seconds = time.process_time() - began
        found = quality.report(parts, labels, RATIOS[ratios], compared).similarity
        assert found is not None
        in_raw = "" if features == "raw" else f"{relative(quality.report(parts, labels, RATIOS[ratios], raw)):.3f}"
        table.add_row(
            rule,
            f"{np.mean(found.mmd2) / np.mean(found.random_mmd2):.3f}",
            f"{np.max(found.mmd2) / np.max(found.random_mmd2):.3f}",
            in_raw,
            f"{np.mean(found.coverage):.4f}",
            f"{np.mean(found.neighbour_accuracy):.3f}",
            f"{seconds:.1f}",
        )
    Console(width=110).print(table)


def relative(report: quality.Report) -> float:
    assert report.similarity is not None
    return float(np.mean(report.similarity.mmd2) / np.mean(report.similarity.random_mmd2))


if __name__ == "__main__":
    main()
