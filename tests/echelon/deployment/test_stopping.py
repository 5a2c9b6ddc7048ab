"""A deployment on this machine ends with the process that holds it, and a ServerApp that is stopped saves its round."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from echelon.deployment.loopback import Loopback
from echelon.server import checkpoint
from tests.processes import Family, wait_for

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(400)]


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demonstration_leaves_no_process(number: signal.Signals, family: Family) -> None:
    process = family.start(sys.executable, "-m", "echelon.deployment.demo")
    assert process.stdout is not None
    while "supernode-0 started" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    _, complained = process.communicate(timeout=20)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert (process.returncode, complained) == (128 + number, "stopping ...\n")
    # Nobody is left to stop the processes of the killed one but the reaper, and Flower's own, which notice it later.
    wait_for(lambda: not family.alive(), 60 if number == signal.SIGKILL else 15)


def test_a_serverapp_saves_on_sigterm() -> None:
    folder = Path(tempfile.mkdtemp(prefix="echelon-"))
    run, family = folder / "run", Family()
    settings = "workers=1 topology=ring strategy=all_reduce partitioner=iid rounds=1000 checkpoint_every=1000"
    try:
        with Loopback(folder, environment=family.environment) as deployment:
            deployment.register("supernode-0")
            deployment.start_node("supernode-0", "rank=0 num-partitions=1")
            deployment.run(overrides=f"{settings} run_dir={run}")
            metrics = run / "metrics.jsonl"
            wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 1, 240)
            apps = [pid for pid, command in family.alive().items() if "flwr-serverapp" in command]
            for pid in apps:
                os.kill(pid, signal.SIGTERM)
            wait_for(lambda: checkpoint.exists(run / "checkpoint"), 15)
        last = json.loads(metrics.read_text().splitlines()[-1])["round"]
        assert checkpoint.load(run / "checkpoint").round == last
    finally:
        shutil.rmtree(folder, ignore_errors=True)
