"""CPU cost of reporting (metrics file, terminal view, tracking=none) relative to rounds of 0.2 s.

    python -m benchmarks.reporting [--rounds 50] [--round-seconds 0.2] [--workers 8 64]

The rounds sleep, so all measured CPU time, including the thread of the live view, is spent on reporting. The exit
status is 1 at 3 % of the rounds' time or more. The CPU time of the figures, drawn once per run, is reported separately.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from echelon.reports import figures, progress, tracking
from echelon.reports.run_folder import RunFolder
from tests.echelon.reports.synthetic import config_yaml, records

LIMIT = 0.03


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--round-seconds", type=float, default=0.2)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64])
    arguments = parser.parse_args()
    kinds: tuple[progress.Kind, ...] = ("none", "plain", "live")
    worst = 0.0
    for workers in arguments.workers:
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder:
                spent = report(Path(folder), kind, workers, arguments.rounds, arguments.round_seconds)
                share = spent / (arguments.rounds * arguments.round_seconds)
                worst = max(worst, share)
                milliseconds = 1000 * spent / arguments.rounds
                print(f"{workers:3d} workers, progress={kind:5s}: {milliseconds:.2f} CPU-ms per round, {share:.2%}")
        with tempfile.TemporaryDirectory() as folder:
            report(Path(folder), "none", workers, arguments.rounds, 0)
            began = time.process_time()
            figures.write(RunFolder.open(folder))
            print(f"{workers:3d} workers, figures: {time.process_time() - began:.1f} CPU-s once")
    print(f"worst {worst:.2%} of a round of {arguments.round_seconds} s, limit {LIMIT:.0%}")
    return int(worst >= LIMIT)


def report(path: Path, kind: progress.Kind, workers: int, rounds: int, round_seconds: float) -> float:
    """Report a run with empty rounds; return the CPU seconds used."""
    rows = records("al_dsgd", "non_blocking", 0, workers=workers, rounds=rounds)
    folder = RunFolder.create(path, config_yaml("al_dsgd", "non_blocking", 0, workers, rounds))
    tracker = tracking.make("none", path, {})
    terminal = Console(file=io.StringIO(), width=120, height=50, force_terminal=kind == "live")
    with progress.make(kind, terminal) as view:
        view.start(rounds, workers)
        began = time.process_time()
        for row in rows:
            time.sleep(round_seconds)
            folder.append_metrics(row)
            view.round(row)
            tracker.log(row)
        return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
