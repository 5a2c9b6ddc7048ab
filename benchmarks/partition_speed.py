"""CPU seconds and memory of submodular partitioning on CIFAR-10, compared with naive greedy and other libraries.

    OMP_NUM_THREADS=1 python -m benchmarks.partition_speed --root DATA [--parts one_class naive libraries whole pieces]
    OMP_NUM_THREADS=1 python -m benchmarks.partition_speed --parts large many --repeats 1

`one_class`: one class of 5000 x 3072 raw pixels among 8 workers.  `naive`: all gains recomputed in every step,
timed at every `--every`-th step with the fast greedy's blocks and extrapolated (1: the full time).  `libraries`: one
subset of 625 and of 2500 samples, compared with the lazy greedy of apricot-select and submodlib-py if installed.
`whole`: all 50,000 samples, raw pixels and 512 principal components, with the peak memory in addition to the features.
`pieces`: facility location of one class in 1 to 8 pieces, with the mean similarity of a sample to the nearest one of a
worker's part.  `large`, `many`: one class of 50,000 and 1000 classes of 1300 samples of 512 random features around 20
centres each.  Times are medians of `--repeats`.
"""

import argparse
import importlib.util
import math
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tasks
from echelon.algorithms.seeds import rng
from partitioners import SubmodularPartitioner
from partitioners.base import check_ratios
from partitioners.quotas import quotas
from partitioners.submodular import greedy, kernel
from partitioners.submodular.features import pca
from partitioners.submodular.partitioner import units

EQUAL, UNEQUAL = (1,) * 8, (1, 1, 1, 1, 2, 2, 4, 4)
GREEDY = {"facility location": greedy.facility_location, "graph cut": greedy.graph_cut}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="data")
    parser.add_argument("--parts", nargs="+", default=["one_class", "naive", "libraries", "whole", "pieces"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--samples", type=int, default=50_000, help="samples of the class of `large`")
    parser.add_argument("--classes", type=int, default=1000, help="classes of `many`")
    arguments = parser.parse_args()
    warm_up()
    if "large" in arguments.parts:
        whole(f"one class of {arguments.samples}", *clusters(1, arguments.samples), arguments.repeats)
    if "many" in arguments.parts:
        whole(f"{arguments.classes} classes of 1300", *clusters(arguments.classes, 1300), arguments.repeats)
    if not {"large", "many"}.issuperset(arguments.parts):
        on_cifar10(arguments)


def on_cifar10(arguments: argparse.Namespace) -> None:
    split = tasks.load("cifar10", arguments.root).train
    features, labels = split.features(), split.y.numpy()
    del split
    one = features[labels == labels.min()]
    if "one_class" in arguments.parts:
        one_class(one, arguments.repeats)
    if "naive" in arguments.parts:
        naive(kernel.similarity(one), arguments.every)
    if "libraries" in arguments.parts:
        libraries(kernel.similarity(one), arguments.repeats)
    if "pieces" in arguments.parts:
        in_pieces(one, arguments.repeats)
    if "whole" in arguments.parts:
        whole("all of CIFAR-10, 3072 raw pixels", features, labels, arguments.repeats)
        whole("all of CIFAR-10, 512 components", pca(features, 512, rng(0, "features")), labels, arguments.repeats)


def warm_up() -> None:
    small = kernel.similarity(np.eye(8))
    for divide in GREEDY.values():
        divide(small, np.array([4, 4]))


def seconds(work: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def one_class(features: np.ndarray, repeats: int) -> None:
    s = kernel.similarity(features)
    print(f"one class of {features.shape}: kernel {seconds(lambda: kernel.similarity(features), repeats):.2f} CPU-s")
    for name, divide in GREEDY.items():
        for ratios in (EQUAL, UNEQUAL):
            _, sizes = units(quotas([len(s)], check_ratios(ratios))[0], check_ratios(ratios))
            print(f"  {name}, {len(sizes)} blocks: {seconds(lambda d=divide, z=sizes: d(s, z), repeats):.3f} CPU-s")  # type: ignore[misc]
    for limit in (1 << 30, 1):
        partitioner = SubmodularPartitioner("graph_cut", max_kernel_bytes=limit)
        taken = seconds(lambda p=partitioner: p(np.zeros(len(s), dtype=int), UNEQUAL, rng(0, "partition"), features), 1)  # type: ignore[misc]
        print(f"  graph cut, 16 blocks, kernel {'included' if limit > 1 else 'never held'}: {taken:.1f} CPU-s")


def naive(s: np.ndarray, every: int) -> None:
    sizes = np.full(8, len(s) // 8)
    for name, divide in GREEDY.items():
        fast = seconds(lambda d=divide: d(s, sizes), 1)  # type: ignore[misc]
        owner, _ = divide(s, sizes)
        slow = every * replay(s, owner, every, gains_of_coverage if name == "facility location" else gains_of_cut)
        print(f"naive {name}: {slow:.0f} CPU-s, {slow / fast:.0f} times as long as {fast:.3f}")


def replay(s: np.ndarray, owner: np.ndarray, every: int, gains: Callable[..., np.ndarray]) -> float:
    """Return the seconds of every `every`-th naive step, blocks filled in turn with the members they end up with."""
    order = [rank for ranks in zip(*(np.flatnonzero(owner == b) for b in range(8)), strict=True) for rank in ranks]
    taken = 0.0
    for step in range(0, len(order), every):
        block = np.array(order[step % 8 : step : 8], dtype=np.int64)
        left = np.array(order[step:])
        began = time.process_time()
        gains(s, block, left).argmax()
        taken += time.process_time() - began
    return taken


def gains_of_coverage(s: np.ndarray, block: np.ndarray, left: np.ndarray) -> np.ndarray:
    near = s[block].max(axis=0) if len(block) else np.zeros(len(s), dtype=np.float32)
    return np.array([np.maximum(s[v], near).sum(dtype=np.float64) for v in left])


def gains_of_cut(s: np.ndarray, block: np.ndarray, left: np.ndarray) -> np.ndarray:
    inside = s[np.ix_(left, block)].sum(axis=1, dtype=np.float64)
    return np.asarray(s[left].sum(axis=1, dtype=np.float64) - 2 * inside)


def libraries(s: np.ndarray, repeats: int) -> None:
    for size in (625, 2500):
        print(f"one subset of {size} among {len(s)} by facility location")
        selections: dict[str, Callable[[], list[int]]] = {
            "this package": lambda k=size: np.flatnonzero(greedy.facility_location(s, np.array([k]))[0] == 0).tolist()  # type: ignore[misc]
        }
        if importlib.util.find_spec("apricot"):
            selections["apricot-select"] = lambda k=size: apricot(s, k)  # type: ignore[misc]
        if importlib.util.find_spec("submodlib"):
            selections["submodlib-py"] = lambda k=size: submodlib(s, k)  # type: ignore[misc]
        for name, select in selections.items():
            chosen = select()
            value = s[:, chosen].max(axis=1).sum(dtype=np.float64)
            print(f"  {name}: {seconds(select, repeats):.3f} CPU-s, f {value:.4f}")


def apricot(s: np.ndarray, size: int) -> list[int]:
    from apricot import FacilityLocationSelection  # type: ignore[import-not-found, unused-ignore]

    chosen = FacilityLocationSelection(size, metric="precomputed", optimizer="lazy").fit(s.astype(np.float64)).ranking
    return [int(sample) for sample in chosen]


def submodlib(s: np.ndarray, size: int) -> list[int]:
    from submodlib import FacilityLocationFunction  # type: ignore[import-not-found, unused-ignore]

    function = FacilityLocationFunction(n=len(s), mode="dense", separate_rep=False, sijs=s)
    chosen = function.maximize(budget=size, optimizer="LazyGreedy", show_progress=False)
    return [int(sample) for sample, _ in chosen]


def in_pieces(features: np.ndarray, repeats: int) -> None:
    s, labels = kernel.similarity(features), np.zeros(len(features), dtype=int)
    for number in (1, 2, 4, 8):
        partitioner = SubmodularPartitioner(max_kernel_bytes=4 * math.ceil(len(s) / number) ** 2)
        taken = seconds(lambda p=partitioner: p(labels, UNEQUAL, rng(0, "partition"), features), repeats)  # type: ignore[misc]
        parts = partitioner(labels, UNEQUAL, rng(0, "partition"), features)
        print(f"in {number} pieces: {taken:.2f} CPU-s, nearest similarity {nearest(s, parts):.4f}")
    random = np.split(rng(1, "partition").permutation(len(s)), np.cumsum([len(part) for part in parts])[:-1])
    print(f"random parts of these sizes: nearest similarity {nearest(s, random):.4f}")


def nearest(s: np.ndarray, parts: list[np.ndarray]) -> float:
    """Return the mean, over workers and samples, of the similarity to the nearest sample of the worker's part."""
    return float(np.mean([s[part].max(axis=0).mean(dtype=np.float64) for part in parts]))


def clusters(classes: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features, 512 per sample around 20 centres per class, and labels."""
    draw = rng(0, "features")
    labels = np.repeat(np.arange(classes), each)
    centres = draw.standard_normal((20 * classes, 512), dtype=np.float32)
    features = draw.standard_normal((classes * each, 512), dtype=np.float32)
    features += centres[20 * labels + draw.integers(0, 20, len(labels))]
    return features, labels


def whole(name: str, features: np.ndarray, labels: np.ndarray, repeats: int) -> None:
    for objective in ("facility_location", "graph_cut"):
        partitioner = SubmodularPartitioner(objective)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
        before = memory("VmRSS")
        taken = seconds(lambda p=partitioner: p(labels, UNEQUAL, rng(0, "partition"), features), repeats)  # type: ignore[misc]
        peak = memory("VmHWM") - before
        print(f"{name}, {objective}: {taken:.1f} CPU-s, {peak:.0f} MB beyond the data", flush=True)


def memory(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
