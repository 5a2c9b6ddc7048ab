"""One mixing step of 64 rows of 11 M parameters, compared with the same product in torch if installed.

    python -m benchmarks.mixing [--workers 64] [--columns 11000000] [--repeats 3]

`mix` is measured on an exponential graph and on a ring; on a complete one it is `average`. All run alternately;
reported are the minimum CPU and wall seconds over the repeats, and the peak memory of the process in units of the rows:
`mix` works in place, torch's product is a second copy.
"""

import argparse
import importlib.util
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from echelon.algorithms import mixing, topology

GIB = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--columns", type=int, default=11_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    size = 4 * arguments.workers * arguments.columns
    needed, free = 2.5 * size + GIB, available_memory()
    if free < needed:
        raise SystemExit(
            f"needs {needed / GIB:.1f} GiB of free memory; got {free / GIB:.1f} GiB (try --columns 1000000)"
        )
    rows = np.random.default_rng(0).standard_normal((arguments.workers, arguments.columns), dtype=np.float32)
    W, ring = (mixing.metropolis(topology.build(name, arguments.workers)) for name in ("exponential", "ring"))
    shares = np.full(arguments.workers, 1 / arguments.workers)
    before = peak_memory()
    steps: dict[str, Callable[[], object]] = {
        "mix": lambda: mixing.mix(W, rows),
        "mix, ring": lambda: mixing.mix(ring, rows),
        "mean_drift": lambda: mixing.mean_drift(2 * W, rows),  # not doubly stochastic, for which there is nothing to do
        "consensus_distance": lambda: mixing.consensus_distance(rows),
    }
    for step in steps.values():
        step()
    extra = (peak_memory() - before) / size
    if importlib.util.find_spec("torch") is not None:
        import torch

        weights, tensor = torch.from_numpy(W.astype(np.float32)), torch.from_numpy(rows)
        steps["torch"] = lambda: weights @ tensor
    else:
        print("torch is not installed: nothing to compare with")
    best = measure(steps, arguments.repeats)
    best |= measure({"average": lambda: mixing.average(shares, rows)}, arguments.repeats)  # last: rows are equal then
    print(f"{arguments.workers} rows x {arguments.columns} float32 = {size / GIB:.2f} GiB")
    for name, (cpu, wall) in best.items():
        print(f"{name:20} {cpu:7.2f} CPU-s {wall:7.2f} s")
    print(f"peak memory beyond the rows: {extra:.3f} of them")
    if "torch" in best:
        cpu, wall = (ours / theirs for ours, theirs in zip(best["mix"], best["torch"], strict=True))
        print(f"mix / torch: {cpu:.2f} in CPU seconds, {wall:.2f} in wall seconds")


def measure(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Return the minimum CPU and wall seconds of each step; steps alternate, so that all run under the same load."""
    best = dict.fromkeys(steps, (float("inf"), float("inf")))
    for _ in range(repeats):
        for name, step in steps.items():
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            best[name] = (min(best[name][0], spent[0]), min(best[name][1], spent[1]))
    return best


def peak_memory() -> int:
    """Return the process's peak resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_memory() -> float:
    """Return the available memory without swapping, in bytes; infinite if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


if __name__ == "__main__":
    main()
