"""The lock on a run folder: one process at a time, until it ends."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from echelon.reports import lock
from echelon.reports.lock import Lock, LockedError
from tests.repository import ROOT

HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from echelon.reports.lock import Lock
held = Lock(Path(sys.argv[1]))
program = subprocess.Popen(["sleep", "60"])
fork = os.fork()
if fork == 0:
    print("ready", program.pid, os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


def test_the_second_one_learns_who_is_first(tmp_path: Path) -> None:
    held = Lock(tmp_path)
    with pytest.raises(LockedError, match=rf"^in use by process {os.getpid()}$"):
        Lock(tmp_path)
    held.release()
    Lock(tmp_path).release()


def test_death_releases_it_though_children_live_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    children = [int(pid) for pid in holder.stdout.readline().split()[1:]]
    try:
        with pytest.raises(LockedError, match=rf"^in use by process {holder.pid}$"):
            Lock(tmp_path)
        holder.kill()
        holder.wait()
        Lock(tmp_path).release()
    finally:
        for child in children:
            os.kill(child, 9)
        holder.stdout.close()


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    Lock(tmp_path).release()
    assert "no locks" in caplog.text
    assert (tmp_path / lock.NAME).exists()
