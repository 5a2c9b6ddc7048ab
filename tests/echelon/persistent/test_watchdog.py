"""What a process starts ends with it, however it ends."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

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


def test_what_has_lost_its_mark(family: Family) -> None:
    """A child that becomes another program with an empty environment, and has no parent any more."""
    lost = "import os, time; time.sleep(2); os.execve('/bin/sleep', ['sleep', '987'], {})"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {lost!r}])"
    holder = HOLDER.replace("sys.stdin.read()", "time.sleep(600)").replace('"-c", child', f'"-c", {parent!r}')
    process = family.start(sys.executable, "-c", holder.replace("time.sleep(1)", "time.sleep(4)"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    sleeping = [file for file in Path("/proc").glob("[0-9]*/cmdline") if file.read_bytes() == b"sleep\x00987\x00"]
    assert len(sleeping) == 1
    process.kill()
    process.communicate(timeout=20)
    wait_for(lambda: not sleeping[0].exists(), 10)


def test_one_within_another(family: Family) -> None:
    """What a process has started ends with it also when it is killed by a watchdog itself."""
    inner = HOLDER.replace("sys.stdin.read()", "time.sleep(600)").replace('print("ready", flush=True)', "")
    outer = f"""
import subprocess, sys, time
from echelon.persistent.watchdog import watched

with watched():
    subprocess.Popen([sys.executable, "-c", {inner!r}], start_new_session=True)
    time.sleep(600)
"""
    process = family.start(sys.executable, "-c", outer)
    wait_for(lambda: any("sleep 600" in command for command in family.alive().values()), 20)
    process.kill()
    process.communicate(timeout=20)
    wait_for(lambda: not family.alive(), 10)


def test_at_its_end(family: Family) -> None:
    process = family.start(sys.executable, "-c", HOLDER)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert not family.alive()


def test_it_is_unmarked_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECHELON_WATCHED", raising=False)  # of all tests
    with watched():
        mark = os.environ["ECHELON_WATCHED"]
        with watched():
            assert os.environ["ECHELON_WATCHED"] != mark
        assert os.environ["ECHELON_WATCHED"] == mark
    assert "ECHELON_WATCHED" not in os.environ
