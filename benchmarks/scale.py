"""Seconds per round and peak memory on the inline engine, by the number of workers and of parameters.

    python -m benchmarks.scale [--workers 125 250 500 1000] [--parameters 0.1] [--large 8x1 8x3 8x11]
        [--rounds 3] [--output docs/figures/scale.png] [--results benchmarks/results/scale.json]

Every worker takes a step with momentum on 16 samples and averages with two neighbours (`DPSGD("ring")`); nothing is
evaluated. Each case runs in a process of its own. Reported are medians of the wall seconds per round, and the peak
memory above that of a run of two workers, as a multiple of the models and momentum that are kept (8 N P bytes).
Exponents are those of least squares on logarithms.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_FEATURES, _CLASSES, _BATCH = 64, 10, 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+", default=[125, 250, 500, 1000])
    parser.add_argument("--parameters", type=float, default=0.1, help="in millions, of the models of --workers")
    parser.add_argument("--large", nargs="*", default=["8x1", "8x3", "8x11"], help="workers x millions of parameters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="figure")
    parser.add_argument("--results", type=Path, help="file for the numbers")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run(*parsed(options.case), options.rounds)))
        return
    many = [measured(f"{workers}x{options.parameters}", options.rounds) for workers in options.workers]
    large = [measured(case, options.rounds) for case in options.large]
    print("| workers | parameters | seconds per round | peak memory | models and momentum | ratio |")
    print("|---|---|---|---|---|---|")
    print("\n".join(row(case) for case in [*many, *large]))
    for name, cases, key in (("N", many, "workers"), ("P", large, "parameters")):
        if len(cases) > 1:
            powers = [exponent(cases, key, value) for value in ("seconds", "bytes")]
            print(f"exponents in {name}: seconds {powers[0]:.2f}, memory {powers[1]:.2f}")
    if options.output is not None:
        draw(many, large, options.output)
    if options.results is not None:
        options.results.write_text(json.dumps({"workers": many, "parameters": large}, indent=1) + "\n")


def row(case: dict[str, Any]) -> str:
    """Return a row of the table."""
    return (
        f"| {case['workers']} | {case['parameters'] / 1e6:.2f} M | {case['seconds']:.2f} | "
        f"{case['bytes'] / 1e6:.0f} MB | {case['kept'] / 1e6:.0f} MB | {case['bytes'] / case['kept']:.2f}x |"
    )


def parsed(case: str) -> tuple[int, float]:
    """Return number of workers and millions of parameters of a case, NxP."""
    workers, _, millions = case.partition("x")
    return int(workers), float(millions)


def measured(case: str, rounds: int) -> dict[str, Any]:
    """Run a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--case", case, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(workers: int, millions: float, rounds: int) -> dict[str, Any]:
    """Train, after a run of two workers with small models, whose memory is that of the program."""
    train(2, 100, 2)
    before = _peak_bytes()
    width = round((math.sqrt((_FEATURES + _CLASSES) ** 2 + 4e6 * millions) - _FEATURES - _CLASSES) / 2)
    parameters, seconds = train(workers, width, rounds + 1)
    kept = 8 * workers * parameters
    return {
        "workers": workers,
        "parameters": parameters,
        "seconds": float(np.median(seconds[1:])),
        "bytes": _peak_bytes() - before,
        "kept": kept,
    }


def train(workers: int, width: int, rounds: int) -> tuple[int, list[float]]:
    """Return the number of parameters of the models, and the wall seconds of every round."""
    import torch
    from flwr.app import ArrayRecord
    from torch import nn

    from clients import Device, Fleet, make_client_app
    from echelon.engines.inline import InlineGrid
    from strategies import DPSGD, SGD, FullBatch, Partition

    def build() -> nn.Module:
        layers = [nn.Linear(_FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, _CLASSES))

    data = torch.rand(4 * _BATCH, _FEATURES), torch.randint(_CLASSES, (4 * _BATCH,))
    app = make_client_app(
        lambda rank, num_workers: data, build, device="cpu", fleet=Fleet((Device(1000.0),)), batched="auto"
    )
    ends = [time.monotonic()]
    strategy = DPSGD(
        "ring",
        work=FullBatch(1, _BATCH, _BATCH),
        sgd=SGD(0.05, 0.9),
        partition=Partition([np.arange(4 * _BATCH)] * workers),
        eval_every=rounds + 1,
        on_round=[lambda record, state: ends.append(time.monotonic())],
    )
    initial = ArrayRecord(build().state_dict())
    strategy.start(InlineGrid(app, workers), initial, rounds, evaluate_fn=lambda number, arrays: None)
    return sum(array.numpy().size for array in initial.values()), np.diff(ends).tolist()


def exponent(cases: list[dict[str, Any]], key: str, value: str) -> float:
    """Return the slope of ``value`` over ``key`` in logarithms."""
    x, y = ([math.log(max(case[name], 1e-9)) for case in cases] for name in (key, value))
    return float(np.polyfit(x, y, 1)[0])


def draw(many: list[dict[str, Any]], large: list[dict[str, Any]], output: Path) -> None:
    """Draw seconds and memory over workers and over parameters."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), sharex="col", layout="constrained")
    columns = (
        (many, "workers", f"workers, {many[0]['parameters'] / 1e6:.2f} M parameters each"),
        (large, "parameters", f"parameters, {large[0]['workers']} workers"),
    )
    for column, (cases, key, label) in enumerate(columns):
        x = [case[key] for case in cases]
        axes[0, column].loglog(x, [case["seconds"] for case in cases], "o-")
        axes[0, column].set_title(f"exponent {exponent(cases, key, 'seconds'):.2f}", fontsize=10)
        axes[1, column].loglog(x, [case["bytes"] / 1e6 for case in cases], "o-", label="peak")
        axes[1, column].loglog(x, [case["kept"] / 1e6 for case in cases], "k--", label="models and momentum")
        axes[1, column].set_title(f"exponent {exponent(cases, key, 'bytes'):.2f}", fontsize=10)
        axes[1, column].set_xticks(x, [f"{value / 1e6:.0f} M" if value > 10_000 else f"{value:,}" for value in x])
        axes[1, column].xaxis.set_minor_locator(NullLocator())
        axes[1, column].set_xlabel(label)
        axes[1, column].legend(frameon=False, fontsize=9)
    axes[0, 0].set_ylabel("seconds per round")
    axes[1, 0].set_ylabel("memory, MB")
    for axis in axes.flat:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
        axis.grid(visible=True, which="both", alpha=0.2)
    figure.savefig(output, dpi=120)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
