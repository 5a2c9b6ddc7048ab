"""A kit on this machine: each folder is a machine, and the scripts in it are all that is started."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from echelon.deployment.kit.__main__ import main
from echelon.deployment.loopback import free_port
from tests.processes import Family, wait_for
from tests.repository import ROOT

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),  # flwr reads .gitignore
]

SERVICES = ("superlink", "node-0", "node-1")
OVERRIDES = ("rounds=2", "strategy=all_reduce", "partitioner=iid", "work.grace=60", "eval_every=2")


def test_a_kit_is_copied_and_started_and_nothing_else() -> None:
    # Not below pytest's folder: the path of the trainer's socket may not be long.
    folder = Path(tempfile.mkdtemp(prefix="echelon-"))
    family = Family(ECHELON_ENV=sys.prefix, HOME=str(folder))
    family.environment |= {"PATH": "/usr/bin:/bin"}
    started: list[subprocess.Popen[str]] = []
    try:
        kit = ["--app", str(ROOT), "--nodes", "2", "--host", "127.0.0.1", "--port", str(free_port())]
        assert main([*kit, "--out", str(folder / "kit")]) == 0
        machines = {name: folder / "machines" / name for name in (*SERVICES, "operator")}
        for name, machine in machines.items():
            shutil.copytree(folder / "kit" / name, machine)
        shutil.rmtree(folder / "kit")
        # SuperNodes first, whose keys are not registered: they are refused, and try again.
        started += [_start(family, machines[name]) for name in reversed(SERVICES)]
        run = family.run("sh", str(machines["operator"] / "run.sh"), *OVERRIDES)
        assert run.returncode == 0, run.stdout + run.stderr
        (metrics,) = machines["superlink"].glob("runs/*/*/metrics.jsonl")
        rounds = [json.loads(line) for line in metrics.read_text().splitlines()]
        assert [record["present"] for record in rounds] == [[0, 1]] * 2
        assert "consensus_accuracy" in rounds[-1]
        assert "nodes:\n" in (metrics.parent / "config.yaml").read_text(), "only these keys may have the ranks"
        assert {path.stat().st_mode & 0o077 for path in (machines["superlink"] / "state.db", metrics)} == {0}
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(30)
        wait_for(lambda: not family.alive(), 30)
    finally:
        family.end()
        for process in started:
            process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _start(family: Family, machine: Path) -> "subprocess.Popen[str]":
    return family.start("sh", "-c", f"exec sh {machine}/start.sh >{machine}/log 2>&1")
