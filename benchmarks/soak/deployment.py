"""Faults of a deployment: a SuperLink, nodes with their trainers, and a ServerApp, each a process that may die.

The last of the nodes is Flower's own SuperNode.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from random import Random

from benchmarks.soak.disk import FULL_DISK, SmallDisk
from benchmarks.soak.promises import every_round_once, records
from benchmarks.soak.target import Target
from echelon.deployment.loopback import Loopback
from tests.processes import Family, wait_for

_NODES = ("supernode-0", "supernode-1", "supernode-2")
_KILLS = {
    "kill-supernode": "kill the SuperNode",
    "kill-serverapp": "kill the ServerApp",
    "kill-superlink": "kill the SuperLink",
}
_FULL = tuple(f"{kind} of the {owner}" for kind in FULL_DISK for owner in ("ServerApp", "SuperLink"))
_FULL_SECONDS = 20.0  # of the SuperLink's disk, after its first complaint; of the other one until the run has ended
_KILOBYTES = 200_000  # of a disk that is not full
_RUN = [
    *("workers=3", "strategy=d_psgd", "topology=ring", "partitioner=iid", "checkpoint_every=1", "work.grace=10"),
    *("eval_every=1000000", "batch_size=64", "rounds=1000000", "task.train_limit=300"),
]
_BACK_SECONDS = 240.0  # Flower gives a dead node up after 45 s, and refuses it as long as it has not
_GOES_ON_SECONDS = 300.0  # a resumed run starts processes, which takes a minute on a busy machine


class Deployment(Target):
    """One deployment and one run on it, which goes on, or is resumed, after every fault.

    Parameters
    ----------
    name : {"deployment", "kill-supernode", "kill-serverapp", "kill-superlink", "disk-deployment"}
        Whether it meets all kinds of faults, kills of one kind of process, or full disks.
    folder : Path
        For the run; where disks may be mounted, it is one. The deployment itself is in a temporary folder: paths of
        sockets must be short.
    """

    def __init__(self, name: str, folder: Path) -> None:
        others = ("kill a trainer", "a SuperNode that stops for 20 s", "SIGTERM to the ServerApp")
        only = {**{kind: (fault,) for kind, fault in _KILLS.items()}, "disk-deployment": _FULL}
        self.faults = only.get(name, (*_KILLS.values(), *others, *_FULL))
        self._folder = Path(tempfile.mkdtemp(prefix="echelon-"))
        self._family = Family()
        places = (folder, self._folder / "database") if set(_FULL) & set(self.faults) else ()
        self._disks = {fault: SmallDisk(place, _KILOBYTES) for fault, place in zip(_FULL, places, strict=False)}
        self._run = folder / "run"
        database = places[1] / "state.db" if places else True
        self._deployment = Loopback(self._folder, environment=self._family.environment, database=database)
        self._following: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Deployment":
        self._deployment.__enter__()
        self._deployment.register(*_NODES)
        for name in _NODES:
            self._start(name)
        self._submit()
        self._wait_for_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._deployment.stop()
        self._family.end()
        for disk in self._disks.values():
            disk.unmount()
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._run.parent, ignore_errors=True)

    def suffer(self, fault: str, chance: Random) -> tuple[float, str]:
        """Do something to a process at a random moment of the run; return the moment and what was lost."""
        moment = chance.uniform(0.0, 8.0)  # two rounds or so
        time.sleep(moment)
        node = chance.choice(_NODES)
        before = records(self._run)
        reached = len(before)
        try:
            if fault == "full disk of the ServerApp":
                if lost := self._fill_run(self._disks[fault], chance.randint(0, 1000)):
                    return moment, lost
            elif fault == "full disk of the SuperLink":
                self._fill_database(self._disks[fault], chance.randint(0, 1000))
            else:
                self._harm(fault, node)
            # Of the round in which a node was killed, its reply may have been there.
            self._wait_for_more(max(reached + 1, len(records(self._run))))
            self._wait_for_all()
        except TimeoutError:
            present = [record["present"] for record in records(self._run)[-3:]]
            return moment, f"{node}: no progress; {len(records(self._run))} rounds, the last ones with {present}"
        # The record of the last round may have been written without its checkpoint.
        kept = records(self._run)[: reached - 1] == before[:-1]
        return moment, every_round_once(self._run) if kept else f"not all of {reached - 1} rounds are as they were"

    def _harm(self, fault: str, node: str) -> None:
        match fault:
            case "kill the SuperNode":
                self._deployment.kill(node)
            case "kill a trainer":
                for trainer in ("app_process.py", "echelon.persistent.trainer"):
                    self._signal(trainer, signal.SIGKILL, f"home-{node}")
            case "a SuperNode that stops for 20 s":
                self._pause(node)
            case "kill the ServerApp" | "SIGTERM to the ServerApp":
                number = signal.SIGKILL if fault.startswith("kill") else signal.SIGTERM
                self._signal("flwr-serverapp", number)
                wait_for(lambda: not self._pids("flwr-serverapp"), 60)
                self._submit()
            case "kill the SuperLink":
                self._deployment.kill("superlink")
                wait_for(lambda: not self._pids("flwr-serverapp"), 60)
                self._deployment.start_superlink()
                self._submit()

    def _fill_run(self, disk: SmallDisk, kilobytes: int) -> str:
        """Fill the disk of the run's folder until the run ends, and resume it; return what is wrong with its words."""
        assert self._following is not None
        following, before = self._following, len(self._deployment.log("run"))
        disk.leave(kilobytes)
        wait_for(lambda: following.poll() is not None, _BACK_SECONDS)
        disk.leave(_KILOBYTES)
        said = [line for line in self._deployment.log("run")[before:].splitlines() if "error: " in line]
        self._submit()
        hint = f"No space left on device; to continue: submit the run with its overrides and resume={self._run}"
        return "" if len(said) == 1 and hint in said[0] else f"of its full disk it says {said}"

    def _fill_database(self, disk: SmallDisk, kilobytes: int) -> None:
        """Fill the disk of the SuperLink's database for a while."""
        assert self._deployment.database is not None
        before = len(self._deployment.log("superlink"))
        with closing(sqlite3.connect(self._deployment.database, timeout=60.0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # it would write into the room of its old log
        disk.leave(kilobytes)
        wait_for(lambda: "disk is full" in self._deployment.log("superlink")[before:], _BACK_SECONDS)
        time.sleep(_FULL_SECONDS)
        disk.leave(_KILOBYTES)
        if not self._pids("flwr-serverapp"):
            self._submit()

    def _submit(self) -> None:
        """Start the run, or resume it from its folder."""
        again = [f"resume={self._run}"] if (self._run / "config.yaml").exists() else [f"run_dir={self._run}"]
        self._following = self._deployment.run(overrides=" ".join([*_RUN, *again]))

    def _start(self, name: str) -> None:
        config = f"rank={_NODES.index(name)} num-partitions={len(_NODES)}"
        self._deployment.start_node(name, config, stock=name == _NODES[-1])

    def _pause(self, name: str) -> None:
        pids = self._pids("", f"home-{name}")
        for number, seconds in ((signal.SIGSTOP, 20.0), (signal.SIGCONT, 0.0)):
            for pid in pids:
                _kill(pid, number)
            time.sleep(seconds)

    def _wait_for_more(self, reached: int) -> None:
        wait_for(lambda: len(records(self._run)) > reached, _GOES_ON_SECONDS)

    def _wait_for_all(self) -> None:
        """Wait for a round with all nodes; dead ones are started again, as systemd does, until they are accepted."""

        def all_present() -> bool:
            for name in _NODES:
                if not self._deployment.is_running(name):
                    self._start(name)
            found = records(self._run)
            return bool(found) and found[-1]["present"] == list(range(len(_NODES)))

        wait_for(all_present, _BACK_SECONDS)

    def _signal(self, command: str, number: signal.Signals, home: str = "") -> None:
        for pid in self._pids(command, home):
            _kill(pid, number)

    def _pids(self, command: str, home: str = "") -> list[int]:
        return [
            pid
            for pid, line in self._family.alive().items()
            if command in line and home.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        ]


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
