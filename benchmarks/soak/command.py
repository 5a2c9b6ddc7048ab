"""Faults of the command line, ``python run_sim.py``, with the inline engine or with Ray."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from benchmarks.soak.disk import FULL_DISK, SmallDisk
from benchmarks.soak.promises import every_round_once, records, same_bits
from benchmarks.soak.target import Target
from tests.processes import Family, wait_for

_RUNS = {
    "command": ["engine=inline", "rounds=40", "eval_every=10"],
    "ray": ["engine=ray", "rounds=10", "eval_every=5"],
}
_COMMON = [
    *("progress=none", "checkpoint_every=1", "workers=4", "topology=ring", "partitioner=iid"),
    *("strategy=al_dsgd", "strategy.base=matcha", "strategy.signal=ema"),
]
_STOP_SECONDS = 20.0  # promised are 15, on a machine of one's own
_END_SECONDS = 40.0  # until the processes of a killed one have noticed
_SIGNALS = {"kill": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}


class Command(Target):
    """A run that is disturbed once, and resumed if that ended it.

    Parameters
    ----------
    name : {"command", "ray", "kill-command", "kill-ray", "disk-ray"}
        Which engine, and whether it is only killed, or has only full disks.
    folder : Path
        For the runs; a finished one is removed.
    """

    def __init__(self, name: str, folder: Path) -> None:
        only, _, engine = name.rpartition("-")
        others = ("SIGTERM", "Ctrl-C", *(["kill a process of workers"] if engine == "ray" else []), *FULL_DISK)
        self.faults = {"": ("kill", *others), "kill": ("kill",), "disk": FULL_DISK}[only]
        self.folder = folder
        self._overrides = [*_COMMON, *_RUNS[engine]]
        self._whole = folder / "whole"
        began = time.monotonic()
        status, said = self._run(*self._overrides, f"run_dir={self._whole}")
        self._duration = time.monotonic() - began
        if status:
            raise RuntimeError(f"the undisturbed run ended with status {status}: {said}")

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def suffer(self, fault: str, chance: Random) -> tuple[float, str]:
        """Do a run with a fault at a random moment; return the moment in seconds and what was lost."""
        moment = chance.uniform(0 if fault == "kill" else 1.0, self._duration)
        run, family = self.folder / "run", Family()
        shutil.rmtree(run, ignore_errors=True)
        try:
            if fault == "full disk":
                return moment, self._full_disk(run, family, chance) or ends(family)
            process = family.start(sys.executable, "run_sim.py", *self._overrides, f"run_dir={run}")
            if fault in _SIGNALS:
                lost = _stopped(process, family, _SIGNALS[fault], moment) or ends(family)
                return moment, lost or self._resumed(run)
            return moment, self._workers_killed(process, family, run, moment)
        finally:
            family.end()

    def _resumed(self, run: Path) -> str:
        again = (
            [f"resume={run}", "progress=none"]
            if (run / "config.yaml").exists()
            else [*self._overrides, f"run_dir={run}"]
        )
        status, said = self._run(*again)
        return f"resumed, it ended with status {status}: {said}" if status else same_bits(run, self._whole)

    def _workers_killed(self, process: "subprocess.Popen[str]", family: Family, run: Path, moment: float) -> str:
        """Kill one of Ray's actors; its workers are absent from a round or two, and the run goes on."""
        time.sleep(moment)
        actors = [pid for pid, command in family.alive().items() if command.startswith("ray::")]
        for pid in actors[:1]:
            os.kill(pid, signal.SIGKILL)
        said, complained = process.communicate()
        if process.returncode:
            return f"status {process.returncode}: {said[-300:]}{complained[-300:]}"
        return every_round_once(run, len(records(self._whole))) or ends(family)

    def _full_disk(self, run: Path, family: Family, chance: Random) -> str:
        """Run on a disk that is full at some time; then make it larger and resume."""
        disk = SmallDisk(run, chance.randint(20, 250))
        try:
            process = family.start(sys.executable, "run_sim.py", *self._overrides, f"run_dir={run / 'run'}")
            said = "\n".join(_said(process, family))
            lines = [line for line in said.splitlines() if "No space left" in line]
            named = len(lines) == 1 and str(run) in lines[0]
            if process.returncode not in (1, 2) or not named or "Traceback" in said:
                return f"with a full disk it ended with status {process.returncode}: {said[-1000:]}"
            disk.leave(20_000)
            return self._resumed(run / "run")
        finally:
            disk.unmount()

    def _run(self, *arguments: str) -> tuple[int, str]:
        family = Family()
        try:
            done = family.run(sys.executable, "run_sim.py", *arguments)
            return done.returncode, f"{done.stdout[-500:]}{done.stderr[-500:]}"
        finally:
            family.end()


def _said(process: "subprocess.Popen[str]", family: Family) -> tuple[str, str]:
    """Wait for the end of a process, and take note of all that it starts; return its two outputs."""
    while True:
        try:
            return process.communicate(timeout=1.0)
        except subprocess.TimeoutExpired:
            family.alive()


def _stopped(process: "subprocess.Popen[str]", family: Family, number: signal.Signals, moment: float) -> str:
    """Signal a process after so many seconds; return what is wrong with its end."""
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        family.alive()  # known from now on, whatever their environment says later
        os.killpg(process.pid, number) if number != signal.SIGKILL else process.kill()
    try:
        said, complained = process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it still ran {_STOP_SECONDS:g} s after {number.name}"
    expected = -number if number == signal.SIGKILL else 128 + number
    if process.returncode not in (0, expected):
        return f"status {process.returncode}: {said[-300:]}{complained[-300:]}"
    if process.returncode == 128 + number and complained != "stopping ...\n":
        return f"it complained: {complained[-500:]}"
    return ""


def ends(family: Family) -> str:
    """Return which processes are left after a while; an empty string if none is."""
    try:
        wait_for(lambda: not family.alive(), _END_SECONDS)
    except TimeoutError:
        return f"processes are left: {list(family.alive().values())}"
    return ""
