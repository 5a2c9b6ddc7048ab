"""Who waits for whom on unlike shards: ``python -m benchmarks.experiments.waiting --root data --seeds 5``.

Digits and Fashion-MNIST (10,000 training samples), two classes per worker, fleet ``stragglers`` of eight workers:
virtual seconds until the consensus model has a certain accuracy, its accuracy over the evaluations of the last third of
120 rounds, and the slowest worker's loss on its own samples in these rounds, for blocking and non-blocking all-reduce,
and for over-selection, FedBuff and FedCompass. What a round is differs, so compare the seconds.
"""

import math
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from benchmarks.experiments import measures
from benchmarks.experiments.runner import arguments, keep, print_table, spread, sweep
from benchmarks.experiments.stragglers import COMMON, OTHERS, TASKS
from echelon.reports.run_folder import RunFolder

RESULTS = Path(__file__).parents[1] / "results" / "waiting.json"
SHARDS = ["partitioner=shards", "partitioner.classes_per_worker=2", "eval_every=5", "evaluate_workers=none"]
WORK = ["strategy=all_reduce", "work=non_blocking"]
CASES = {
    "blocking": ["strategy=all_reduce", "work=full_batch"],
    "nominal": WORK,
    "expected": [*WORK, "work.estimator=expected"],
    "memory": [*WORK, "work.estimator=memory"],
    **OTHERS,
    "fedcompass": ["strategy=fedcompass", "work=full_batch"],
}
ACCURACIES = {"digits": 0.9, "fashion_mnist": 0.8}
LIMITS = {"digits": [], "fashion_mnist": ["task.train_limit=10000"]}
SLOWEST = 7  # the device at a quarter of the speed


def main() -> None:
    """Run the cases of both tasks, print their tables and keep the numbers."""
    options = arguments(__doc__ or "")
    found = {task: _compare(task, options) for task in ACCURACIES}
    keep(RESULTS, options, found)


def _compare(task: str, options: Namespace) -> list[dict[str, str]]:
    root = [f"task.root={options.root}"] if task != "digits" else []
    common = [*COMMON, *TASKS[task], *LIMITS[task], *root, *SHARDS]
    runs = sweep({f"waiting/{task}/{name}": [*common, *keys] for name, keys in CASES.items()}, options)
    rows = [_row(name, runs[f"waiting/{task}/{name}"], ACCURACIES[task]) for name in CASES]
    print(f"\n### {task}\n")
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    return rows


def _row(name: str, runs: list[RunFolder], accuracy: float) -> dict[str, str]:
    reached = [_seconds(run, accuracy) for run in runs]
    there = [seconds for seconds in reached if math.isfinite(seconds)]
    return {
        "case": name,
        f"seconds to {100 * accuracy:.0f} %": spread(there, 2) if there else "never",
        "runs that reach it": f"{len(there)} of {len(runs)}",
        "late accuracy %": spread([measures.late(run, "consensus_accuracy") for run in runs], 1, 100),
        "slowest worker's late loss": _spread_of_known([_slowest_loss(run) for run in runs]),
        "seconds of all rounds": spread([run.metrics[-1]["virtual_seconds"] for run in runs], 1),
        "idle %": spread([measures.mean_of(run, "idle_share") for run in runs], 1, 100),
    }


def _seconds(run: RunFolder, accuracy: float) -> float:
    """Return the virtual seconds until the first evaluation that has the accuracy; infinite without one."""
    times = [r["virtual_seconds"] for r in run.metrics if (r.get("consensus_accuracy") or 0.0) >= accuracy]
    return float(times[0]) if times else math.inf


def _slowest_loss(run: RunFolder) -> float:
    """Return the slowest worker's mean training loss in the last third of the rounds; NaN if it took part in none."""
    records = run.metrics[2 * len(run.metrics) // 3 :]
    losses = [record["train_loss_per_worker"][SLOWEST] for record in records]
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else math.nan


def _spread_of_known(values: Iterable[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return spread(known, 2) if known else "-"


if __name__ == "__main__":
    main()
