"""Disturb everything at random and see whether it holds: ``python -m benchmarks.soak`` or ``make soak``.

Faults are drawn from the seed and their number, target by target in turn. The outcome of each is added to a file, and
what the file holds is not repeated. Ends with status 1 if a promise was broken.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

from benchmarks.soak.outcomes import Outcome, append, load, table
from benchmarks.soak.target import Target
from benchmarks.soak.targets import TARGETS

RESULTS = Path(__file__).parents[1] / "results" / "soak.jsonl"


def main() -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0, help="after these, no further fault begins")
    parser.add_argument(
        "--count", type=int, default=1_000_000, help="faults per target at most, those in the file included"
    )
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=["hostile", "command", "ray", "deployment"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of outcomes, one JSON object per line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as stack:
        end = time.monotonic() + options.seconds
        opened: dict[str, Target] = {}
        for name, number in _missing(options.only, options.seed, options.count, options.out):
            if time.monotonic() > end:
                break
            if name not in opened:
                where = Path(folder, name)
                where.mkdir()
                opened[name] = stack.enter_context(TARGETS[name](name, where))
            outcome = _try(opened[name], name, options.seed, number)
            append(options.out, outcome)
            print(
                f"{name} {number}, {outcome.fault} after {outcome.moment:.1f} s: {outcome.lost or 'held'}", flush=True
            )
    outcomes = [outcome for outcome in load(options.out) if outcome.target in options.only]
    print(table(outcomes))
    return 1 if any(outcome.lost for outcome in outcomes) else 0


def _missing(names: Sequence[str], seed: int, count: int, path: Path) -> Iterator[tuple[str, int]]:
    """Yield the targets in turn, with the numbers of the faults that the file does not hold."""
    done = {(outcome.target, outcome.number) for outcome in load(path) if outcome.seed == seed}
    return ((name, number) for number in range(count) for name in names if (name, number) not in done)


def _try(target: Target, name: str, seed: int, number: int) -> Outcome:
    chance = Random(f"{seed} {name} {number}")
    fault = target.faults[number % len(target.faults)]
    moment, lost = target.suffer(fault, chance)
    return Outcome(name, seed, number, fault, round(moment, 3), lost)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what was started is ended on the way
    raise SystemExit(main())
