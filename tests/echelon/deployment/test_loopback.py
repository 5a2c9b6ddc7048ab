"""The processes of a deployment end with the one that holds it."""

import signal
import sys
from pathlib import Path

import pytest

from tests.processes import Family, wait_for

HOLDER = """
import sys, time
from pathlib import Path
from echelon.deployment.loopback import Loopback

deployment = Loopback(Path(sys.argv[1]))
# As a SuperNode, it has a child and takes its time.
node = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
deployment._start("node", "python", "-c", node)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_they_end_when_it_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    family = Family()
    try:
        process = family.start(sys.executable, "-c", HOLDER, str(tmp_path))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(family.alive()) >= 3  # the holder, the node, the reaper
        process.send_signal(number)
        process.communicate(timeout=20)
        wait_for(lambda: not family.alive(), 10)
    finally:
        family.end()


KILLED_BY_ITS_START = """
import os, signal, subprocess, sys
from pathlib import Path
from echelon.deployment import loopback

class Killing(subprocess.Popen):
    def __init__(self, command, **options):
        super().__init__(command, **options)
        if options.get("umask"):  # a process of the deployment, not the reaper
            os.kill(os.getpid(), signal.SIGKILL)

deployment = loopback.Loopback(Path(sys.argv[1]))
subprocess.Popen = Killing
deployment._start("node", "python", "-c", "import time; time.sleep(600)")
"""


def test_a_process_ends_although_its_holder_dies_before_it_knows_of_it(tmp_path: Path) -> None:
    family = Family()
    try:
        process = family.start(sys.executable, "-c", KILLED_BY_ITS_START, str(tmp_path))
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        wait_for(lambda: not family.alive(), 10)
    finally:
        family.end()
