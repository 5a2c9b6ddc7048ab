"""What a process starts ends with it, however it ends."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from echelon.persistent.watchdog import watched
from tests.processes import Family, wait_for

pytestmark = pytest.mark.skipif(not os.path.exists("/proc"), reason="processes are marked on Linux only")  # noqa: PTH110

# The child has a session of its own and a child; neither notices the end of its parent.
HOLDER = """
import subprocess, sys, time
from echelon.persistent.watchdog import watched

child = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
with watched():
    subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
    time.sleep(1)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_signal(number: signal.Signals, family: Family) -> None:
    process = family.start(sys.executable, "-c", HOLDER.replace("sys.stdin.read()", "time.sleep(600)"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(family.alive()) == 4  # the holder, its watchdog, the child and its child
    process.send_signal(number)
    process.communicate(timeout=20)
    wait_for(lambda: not family.alive(), 10)


def test_at_its_end(family: Family) -> None:
    process = family.start(sys.executable, "-c", HOLDER)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert not family.alive()


def test_it_is_unmarked_again_afterwards() -> None:
    with watched():
        assert "ECHELON_WATCHED" in os.environ
    assert "ECHELON_WATCHED" not in os.environ
