"""Faults of the processes of a run without a server: ``python run_sim.py engine=torch``."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from benchmarks.soak.command import ends
from benchmarks.soak.promises import every_round_once, records
from benchmarks.soak.target import Target
from tests.processes import Family, wait_for

_TIMEOUT = 8.0
_RUN = [
    *("engine=torch", "engine.processes=4", f"engine.timeout={_TIMEOUT}", "progress=none", "checkpoint_every=50"),
    *("workers=4", "topology=ring", "partitioner=iid", "strategy=al_dsgd", "model=mlp", "eval_every=100"),
]
_HITS, _MORE_ROUNDS, _PAUSE_SECONDS = 10, 20, 5.0
_HANG_SECONDS = 180.0
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Ranks(Target):
    """A run of four processes, one of which is killed or stopped ten times; then it is stopped and resumed.

    A process is hit at a random moment, but only while two others take part.

    Parameters
    ----------
    name : {"kill-rank"}
        Not used.
    folder : Path
        For the runs; a finished one is removed.
    """

    faults = ("kill", "stop")

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def suffer(self, fault: str, chance: Random) -> tuple[float, str]:
        """Do a run with ten faults; return the moment of the last one in seconds and what was lost."""
        run, family = self.folder / "run", Family()
        shutil.rmtree(run, ignore_errors=True)
        try:
            process = family.start(sys.executable, "run_sim.py", *_RUN, "rounds=1000000", f"run_dir={run}")
            began = time.monotonic()
            try:
                for _ in range(_HITS):
                    wait_for(lambda: _present(run) >= 3, _HANG_SECONDS)
                    time.sleep(chance.uniform(0, _PAUSE_SECONDS))
                    _hit(family, _SIGNALS[fault], chance.random())
                    reached = len(records(run))
                    wait_for(lambda: len(records(run)) > reached + 1, _HANG_SECONDS)  # noqa: B023, called at once
            except TimeoutError:
                said = "" if process.poll() is None else process.communicate()[0][-300:]
                return time.monotonic() - began, f"no round follows round {len(records(run))}: {said or 'it hangs'}"
            return time.monotonic() - began, _stopped(process, family, run) or _resumed(run)
        finally:
            family.end()


def _stopped(process: "subprocess.Popen[str]", family: Family, run: Path) -> str:
    """Stop the run in order; return what is wrong with its end or with what it has said of the faults."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        said, complained = process.communicate(timeout=_HANG_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it still ran {_HANG_SECONDS:g} s after SIGTERM"
    if process.returncode != 143 or complained != "stopping ...\n":
        return f"status {process.returncode}: {said[-300:]}{complained[-300:]}"
    found = records(run)
    if not any(record["rejections"] for record in found):
        return "workers were absent and nothing says why"
    return every_round_once(run) or ends(family)


def _resumed(run: Path) -> str:
    """Resume the run for a few rounds; return what is wrong with its end."""
    family, rounds = Family(), len(records(run)) + _MORE_ROUNDS
    try:
        again = [f"resume={run}", f"rounds={rounds}", "progress=none"]
        done = family.run(sys.executable, "run_sim.py", *again)
        if done.returncode:
            return f"resumed, it ended with status {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}"
        if records(run)[-1]["present"] != [0, 1, 2, 3]:
            return f"resumed, only workers {records(run)[-1]['present']} are present"
        return every_round_once(run, rounds) or ends(family)
    finally:
        family.end()


def _present(run: Path) -> int:
    """Return how many workers took part in the last round."""
    found = records(run)
    return len(found[-1]["present"]) if found else 0


def _hit(family: Family, number: signal.Signals, place: float) -> None:
    """Signal one of the processes, which may be starting again."""
    found = sorted(pid for pid, command in family.alive().items() if "spawn_main" in command)
    if found:
        os.kill(found[int(place * len(found))], number)
