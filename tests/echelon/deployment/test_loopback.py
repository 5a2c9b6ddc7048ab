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
