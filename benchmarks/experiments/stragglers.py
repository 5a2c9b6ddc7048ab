"""Time saved by non-blocking work: ``python -m benchmarks.experiments.stragglers --root data``.

Virtual time to the same training loss, blocking and non-blocking, with all-reduce, D-PSGD and MATCHA, and for
over-selection and FedBuff; IID and Dirichlet(0.3) shards; fleet ``stragglers``, eight workers.
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.experiments import measures
from benchmarks.experiments.runner import Runs, arguments, print_table, spread, sweep
from echelon.reports.run_folder import RunFolder

RESULTS = Path(__file__).parents[1] / "results" / "stragglers.json"
TASKS = {
    "digits": ["task=digits", "model=mlp", "batch_size=64", "minibatch_size=8", "rounds=120", "learning_rate=0.05"],
    "fashion_mnist": [
        *("task=fashion_mnist", "model=mlp", "batch_size=64", "minibatch_size=8", "rounds=120"),
        *("learning_rate=0.05", "task.test_limit=2000"),
    ],
}
SHARDS = {"iid": ["partitioner=stratified"], "dirichlet": ["partitioner=dirichlet", "partitioner.alpha=0.3"]}
MIXINGS = {
    "all_reduce": ["strategy=all_reduce"],
    "d_psgd": ["strategy=d_psgd", "topology=g0"],
    "matcha": ["strategy=matcha", "strategy.communication_budget=0.5", "topology=g0"],
}
WORKS = {"blocking": ["work=full_batch"], "non_blocking": ["work=non_blocking"]}
OTHERS = {
    "over_selection": ["strategy=over_selection", "strategy.keep=0.75", "work=full_batch"],
    "fedbuff": ["strategy=fedbuff", "strategy.buffer_size=8", "work=full_batch"],
}
ESTIMATORS = ("nominal", "finished", "per_worker", "expected")
COMMON = ["fleet=stragglers", "momentum=0.9", "weight_decay=0.0001", "eval_every=40"]


def main() -> None:
    """Run the sweeps and print one table per task and partition."""
    options = arguments(__doc__ or "")
    for task, task_keys in TASKS.items():
        own = [*COMMON, *task_keys, *([f"task.root={options.root}"] if task != "digits" else [])]
        for shards, shard_keys in SHARDS.items():
            _compare(f"{task}, {shards}", options, f"stragglers/{task}/{shards}", [*own, *shard_keys])
        _bias(options, task, [*own, "partitioner=shards", "partitioner.classes_per_worker=2"])


def _compare(title: str, options: Namespace, place: str, keys: list[str]) -> None:
    variants = {
        f"{place}/{mixing}/{work}": [*keys, *mixing_keys, *work_keys]
        for mixing, mixing_keys in MIXINGS.items()
        for work, work_keys in WORKS.items()
    } | {f"{place}/{name}": [*keys, *own] for name, own in OTHERS.items()}
    runs = sweep(variants, options)
    rows = []
    for mixing in MIXINGS:
        pair = {work: runs[f"{place}/{mixing}/{work}"] for work in WORKS}
        rows.append(_row(f"{mixing}, blocking", pair["blocking"], pair["non_blocking"], pair["blocking"]))
        rows.append(_row(f"{mixing}, non_blocking", pair["non_blocking"], pair["blocking"], pair["blocking"]))
    synchronous = runs[f"{place}/all_reduce/blocking"]
    rows += [_row(name, runs[f"{place}/{name}"], synchronous, synchronous) for name in OTHERS]
    heads = (
        "strategy",
        "seconds to the pair's common loss",
        "speed-up",
        "final accuracy %",
        "worst worker %",
        "idle %",
    )
    _keep(options, title, heads, rows)


def _row(name: str, runs: list[RunFolder], partner: list[RunFolder], blocking: list[RunFolder]) -> list[str]:
    """Return the row of ``runs``; the time is measured to a loss that ``runs`` and ``partner`` both reach."""
    times, ratios = [], []
    for run, other, base in zip(runs, partner, blocking, strict=True):
        level = measures.common_loss((run, other))
        times.append(measures.seconds_to(run, level))
        ratios.append(measures.seconds_to(base, level) / times[-1])
    return [
        name,
        spread(times, 2),
        "1" if runs is blocking else spread(ratios, 2),
        spread([measures.final(run, "consensus_accuracy") for run in runs], 1, 100),
        spread([measures.final(run, "worker_accuracy_min") for run in runs], 1, 100),
        spread([measures.mean_of(run, "idle_share") for run in runs], 1, 100),
    ]


def _bias(options: Namespace, task: str, keys: list[str]) -> None:
    """Show the bias of the estimators with two classes per worker."""
    place = f"stragglers/{task}/estimators"
    base = [*keys, "strategy=all_reduce"]
    variants = {f"{place}/blocking": [*base, "work=full_batch"]} | {
        f"{place}/{name}": [*base, "work=non_blocking", f"work.estimator={name}"] for name in ESTIMATORS
    }
    runs: Runs = sweep(variants, options)
    rows = []
    for name, own in runs.items():
        slow = [np.mean([r["train_loss_per_worker"][7] for r in run.metrics[-20:]]) for run in own]
        fast = [np.mean([r["train_loss_per_worker"][:6] for r in run.metrics[-20:]]) for run in own]
        accuracy = [measures.final(run, "consensus_accuracy") for run in own]
        rows.append([name.split("/")[-1], spread(accuracy, 1, 100), spread(slow, 3), spread(fast, 3)])
    title = f"{task}, two classes per worker, all_reduce: bias of the estimators"
    _keep(options, title, ("work", "accuracy %", "loss of the slowest worker", "loss of the six fast ones"), rows)


def _keep(options: Namespace, title: str, heads: Sequence[str], rows: list[list[str]]) -> None:
    """Print a table and keep its rows, beside those of other tables, unless it is another experiment."""
    print(f"\n### {title}\n")
    print_table(heads, rows)
    if not options.overrides:
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        RESULTS.write_text(f"{json.dumps(kept | {title: rows}, indent=1)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
