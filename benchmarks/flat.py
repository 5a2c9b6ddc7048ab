"""Do long runs grow? ``python -m benchmarks.flat`` samples memory, descriptors and shared memory of whole runs.

Two runs of the command line: 200 workers for 200 rounds with the inline engine, 50 workers for 50 rounds with Ray. Over
all of a run's processes: memory that none shares with another (USS), open descriptors, and what ``/dev/shm`` holds.
Reports the medians of the second and of the last quarter of the rounds; the first quarter is the warm-up.
"""

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.experiments.runner import print_table
from tests.processes import Family

RUNS = {
    "inline": ["engine=inline", "workers=200", "rounds=200"],
    "ray": ["engine=ray", "workers=50", "rounds=50"],
}
_MEASURES = {"megabytes": "memory, MB", "descriptors": "descriptors", "shared_megabytes": "/dev/shm, MB"}
_COMMON = [
    *(
        "progress=none",
        "topology=regular",
        "topology.degree=4",
        "partitioner=iid",
        "strategy=al_dsgd",
        "strategy.signal=train_loss",
        "model=mlp",
    ),
    *("eval_every=25", "checkpoint_every=10", "batch_size=8", "minibatch_size=4"),
]


@dataclass(frozen=True)
class Sample:
    """What a run's processes hold at one time."""

    round: int
    megabytes: float
    descriptors: int
    shared_megabytes: float


def main() -> None:
    """Do the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(RUNS), action="append")
    parser.add_argument("--seconds", type=float, default=2.0, help="between two samples")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    rows = []
    for name, run in RUNS.items():
        if not options.only or name in options.only:
            samples = watch([*_COMMON, *run, *options.overrides], options.seconds)
            rows += [[name, *row] for row in summary(samples)]
    print_table(["engine", "measure", "second quarter", "last quarter", "ratio"], rows)


def watch(overrides: list[str], seconds: float) -> list[Sample]:
    """Do a run; return samples of what its processes hold.

    Raises
    ------
    RuntimeError
        If the run fails.
    """
    family, samples = Family(), []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        process = family.start(sys.executable, "run_sim.py", *overrides, f"run_dir={run}")
        try:
            while process.poll() is None:
                time.sleep(seconds)
                samples.append(_sample(family, run / "metrics.jsonl"))
            said, complained = process.communicate()
        finally:
            family.end()
    if process.returncode:
        raise RuntimeError(f"the run ended with status {process.returncode}: {said}{complained}")
    return samples


def summary(samples: list[Sample]) -> list[list[str]]:
    """Return a row per measure: medians of the second and of the last quarter of the rounds, and their ratio."""
    last = max(sample.round for sample in samples)
    early = [sample for sample in samples if last / 4 < sample.round <= last / 2]
    late = [sample for sample in samples if 3 * last / 4 < sample.round < last]  # then its processes end
    rows = []
    for name, unit in (
        ("megabytes", "memory, MB"),
        ("descriptors", "descriptors"),
        ("shared_megabytes", "/dev/shm, MB"),
    ):
        one, other = (median(getattr(sample, name) for sample in part) for part in (early, late))
        rows.append([unit, f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}" if one else "-"])
    return rows


def _sample(family: Family, metrics: Path) -> Sample:
    size = descriptors = 0
    for pid in family.alive():
        with suppress(OSError):
            size += _unique_kilobytes(pid)
            descriptors += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    shared = shutil.disk_usage("/dev/shm").used
    done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    return Sample(done, size / 1024, descriptors, shared / 1024**2)


def _unique_kilobytes(pid: int) -> int:
    """Return the memory of a process that it shares with no other one."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


if __name__ == "__main__":
    main()
