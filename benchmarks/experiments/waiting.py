"""Who waits for whom on unlike shards: ``python -m benchmarks.experiments.waiting``.

Digits, two classes per worker, fleet ``stragglers`` of eight workers: virtual seconds until the consensus model has an
accuracy of 90 %, and its accuracy over the evaluations of the last third of 120 rounds, for blocking and non-blocking
all-reduce, and for over-selection, FedBuff and FedCompass. What a round is differs, so compare the seconds.
"""

import json
import math
from pathlib import Path

from benchmarks.experiments import measures
from benchmarks.experiments.runner import arguments, print_table, spread, sweep
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
ACCURACY = 0.9


def main() -> None:
    """Run the cases, print their table and keep its numbers."""
    options = arguments(__doc__ or "")
    common = [*COMMON, *TASKS["digits"], *SHARDS]
    runs = sweep({f"waiting/{name}": [*common, *keys] for name, keys in CASES.items()}, options)
    rows = [_row(name, runs[f"waiting/{name}"]) for name in CASES]
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    if options.overrides:
        return  # another experiment than the one that the documentation quotes
    RESULTS.write_text(f"{json.dumps({'seeds': options.seeds, 'rows': rows}, indent=1)}\n")


def _row(name: str, runs: list[RunFolder]) -> dict[str, str]:
    reached = [_seconds(run) for run in runs]
    there = [seconds for seconds in reached if math.isfinite(seconds)]
    return {
        "case": name,
        "seconds to 90 %": spread(there, 2) if there else "never",
        "runs that reach it": f"{len(there)} of {len(runs)}",
        "late accuracy %": spread([measures.late(run, "consensus_accuracy") for run in runs], 1, 100),
        "seconds of all rounds": spread([run.metrics[-1]["virtual_seconds"] for run in runs], 1),
        "idle %": spread([measures.mean_of(run, "idle_share") for run in runs], 1, 100),
    }


def _seconds(run: RunFolder) -> float:
    """Return the virtual seconds until the first evaluation that has the accuracy; infinite without one."""
    times = [r["virtual_seconds"] for r in run.metrics if (r.get("consensus_accuracy") or 0.0) >= ACCURACY]
    return float(times[0]) if times else math.inf


if __name__ == "__main__":
    main()
