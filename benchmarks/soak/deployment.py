"""Faults of a deployment: a SuperLink, nodes with their trainers, and a ServerApp, each a process that may die.

The last of the nodes is Flower's own SuperNode.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from random import Random

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
_RUN = [
    *("workers=3", "strategy=d_psgd", "topology=ring", "partitioner=iid", "checkpoint_every=1", "work.grace=10"),
    *("eval_every=1000000", "batch_size=64", "rounds=1000000", "task.train_limit=300"),
]
_BACK_SECONDS = 240.0  # Flower gives a dead node up after 45 s, and refuses it as long as it has not
_GOES_ON_SECONDS = 300.0  # on a busy machine, processes take a minute to start


class Deployment(Target):
    """One deployment and one run on it, which goes on, or is resumed, after every fault.

    Parameters
    ----------
    name : {"deployment", "kill-supernode", "kill-serverapp", "kill-superlink"}
        Whether it meets all kinds of faults, or kills of one kind of process.
    folder : Path
        For the run. The deployment itself is in a temporary folder: paths of sockets must be short.
    """

    def __init__(self, name: str, folder: Path) -> None:
        others = ("kill a trainer", "a SuperNode that stops for 20 s", "SIGTERM to the ServerApp")
        self.faults = (_KILLS[name],) if name in _KILLS else (*_KILLS.values(), *others)
        self._run = folder / "run"
        self._folder = Path(tempfile.mkdtemp(prefix="echelon-"))
        self._family = Family()
        self._deployment = Loopback(self._folder, environment=self._family.environment)
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
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._run.parent, ignore_errors=True)

    def suffer(self, fault: str, chance: Random) -> tuple[float, str]:
        """Do something to a process at a random moment of the run; return the moment and what was lost."""
        moment = chance.uniform(0.0, 8.0)  # two rounds or so
        time.sleep(moment)
        node = chance.choice(_NODES)
        reached = len(records(self._run))
        try:
            match fault:
                case "kill the SuperNode":
                    self._deployment.kill(node)
                    reached += 1  # of the round in which it was killed, its reply may have been there
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
            self._wait_for_more(max(reached, len(records(self._run))))
            self._wait_for_all()
        except TimeoutError:
            present = [record["present"] for record in records(self._run)[-3:]]
            return moment, f"{node}: no progress; {len(records(self._run))} rounds, the last ones with {present}"
        return moment, every_round_once(self._run)

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
