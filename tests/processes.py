"""Processes of a test and their descendants, identified by an environment variable."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from echelon.persistent.watchdog import look
from tests.repository import ROOT

_MARK = "ECHELON_TEST"


class Family:
    """Processes of one test and their descendants, killed by id."""

    def __init__(self, **variables: str) -> None:
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        self._seen: dict[int, str] = {}
        name, _, value = self._mark.partition("=")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", name: value, **variables}

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command in the root of the repository, in a new session."""
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to completion."""
        process = self.start(*command)
        said, complained = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, said, complained)

    def alive(self) -> dict[int, str]:
        """Return the command lines of the running processes, by process id; of those seen earlier, too.

        Ray's agents overwrite their environment with a title: they are known as long as their parents live, and
        afterwards if they were seen before.
        """
        look(self._mark.encode(), self._seen)
        found: dict[int, str] = {}
        for pid in self._seen:
            with suppress(OSError):  # it has ended meanwhile
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return {pid: command for pid, command in found.items() if command}

    def end(self) -> None:
        """Kill all running processes."""
        for pid in self.alive():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def wait_for(what: Callable[[], Any], seconds: float = 120.0) -> None:
    """Wait until a condition holds.

    Raises
    ------
    TimeoutError
        If it does not become true in time.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s; the condition does not hold")
        time.sleep(0.1)
