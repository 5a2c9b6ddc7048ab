"""Run many configurations, reuse finished runs, and return the run folders."""

import argparse
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from flwr.clientapp import ClientApp

import client_app
import server_app
from conf import Config, compose
from echelon.engines.inline import InlineGrid
from echelon.reports import capture, progress
from echelon.reports.run_folder import RunFolder

Runs = dict[str, list[RunFolder]]
MakeApp = Callable[[Config], ClientApp]


def arguments(description: str) -> argparse.Namespace:
    """Parse the command line of an experiment that has no options of its own."""
    return parser(description).parse_args()


def parser(description: str) -> argparse.ArgumentParser:
    """Return what an experiment takes: data and output folders, seeds, processes, common overrides."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--root", default="data", help="folder of the data (task.root)")
    made.add_argument("--out", default="runs/experiments", type=Path, help="parent of the run folders")
    made.add_argument("--seeds", default=3, type=int, help="number of seeds")
    made.add_argument("--jobs", default=2, type=int, help="parallel runs, one process each")
    made.add_argument("overrides", nargs="*", help="overrides for every run, such as rounds=5 for a quick test")
    return made


def sweep(variants: Mapping[str, Sequence[str]], options: argparse.Namespace, make_app: MakeApp | None = None) -> Runs:
    """Run every variant with every seed, reusing finished runs.

    Parameters
    ----------
    variants : mapping of str to overrides
        By name; the name is also the folder's, below ``--out``. ``{seed}`` in an override is the run's seed.
    options : Namespace
        From :func:`arguments`.
    make_app : callable, optional
        Returns the workers' ClientApp; at module level, since the runs are other processes. By default that of
        ``client_app``.

    Returns
    -------
    dict
        Run folders by variant, in the order of the seeds.
    """
    places = {name: [options.out / name / str(seed) for seed in range(options.seeds)] for name in variants}
    # Most tables in the documentation are those of the loop; batches differ in the last bits.
    engine = ("engine=inline", "engine.batched=false")
    jobs = [
        compose([*engine, *_filled(overrides, seed), *options.overrides, f"seed={seed}", f"run_dir={path}"])
        for name, overrides in variants.items()
        for seed, path in enumerate(places[name])
    ]
    # One thread per process, set before torch is imported there: small models do not benefit from more.
    os.environ["OMP_NUM_THREADS"] = "1"
    missing = [config for config in jobs if not (Path(str(config.run_dir)) / "summary.json").exists()]
    finished = len(jobs) - len(missing)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for done, path in enumerate(pool.map(partial(_run, make_app), missing), start=finished + 1):
            print(f"{done}/{len(jobs)} {path}", file=sys.stderr, flush=True)
    return {name: [RunFolder.open(path) for path in paths] for name, paths in places.items()}


def _filled(overrides: Sequence[str], seed: int) -> list[str]:
    return [override.replace("{seed}", str(seed)) for override in overrides]


def _run(make_app: MakeApp | None, config: Config) -> str:
    path = Path(str(config.run_dir))
    shutil.rmtree(path, ignore_errors=True)
    folder = server_app.open_folder(replace(config, checkpoint_every=0), path)
    with capture.to_log(folder.log), warnings.catch_warnings():
        grid = InlineGrid((make_app or client_app.make_app)(config), config.workers)
        server_app.run(replace(config, checkpoint_every=0), grid, folder, progress.make("none"))
    return str(path)


def keep(path: Path, options: argparse.Namespace, found: Mapping[str, object]) -> None:
    """Write results and their number of seeds, unless overrides made it another experiment than the documented one."""
    if not options.overrides:
        path.write_text(f"{json.dumps({'seeds': options.seeds, **found}, indent=1)}\n", encoding="utf-8")


def spread(values: Sequence[float], digits: int = 1, factor: float = 1.0) -> str:
    """Return mean and sample standard deviation as text."""
    scaled = np.array(values, dtype=float) * factor
    deviation = f" ± {scaled.std(ddof=1):.{digits}f}" if len(scaled) > 1 else ""
    return f"{scaled.mean():.{digits}f}{deviation}"


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
