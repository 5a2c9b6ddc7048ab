"""Ends what a process has started, and what that has started, once the process has ended, also if it was killed.

Run as a program, which imports nothing of Echelon, it waits for the end of its standard input: that is the end of the
process that holds the other end of the pipe. It then kills all processes with a mark in their environment, which they
inherit from that process. Linux only: elsewhere nothing is marked, and nothing killed.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_VARIABLE = "ECHELON_WATCHED"
_DONE = b"done"
_PROC = Path("/proc")
_TRIES, _PAUSE_SECONDS = 10, 0.5


@contextmanager
def watched() -> Iterator[None]:
    """Within, whatever this process starts, directly or not, ends with it; at the end, whatever is left is killed.

    Processes of a pool or of an engine often notice the death of their parent themselves, but not all of them, and not
    while they start.
    """
    if not _PROC.exists():
        yield
        return
    mark = uuid.uuid4().hex
    command = [sys.executable, "-I", "-S", __file__, f"{_VARIABLE}={mark}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watchdog:
        os.environ[_VARIABLE] = mark
        try:
            yield
        finally:
            os.environ.pop(_VARIABLE, None)
            with suppress(OSError):  # it may have been killed with all processes of this one
                watchdog.communicate(_DONE)


def main(mark: bytes) -> None:
    """Wait for the end of the input, then kill the marked processes; again, as long as there may be new ones."""
    ended_in_order = sys.stdin.buffer.read() == _DONE
    for _ in range(_TRIES):
        found = _marked(mark)
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if ended_in_order and not found:
            return
        time.sleep(_PAUSE_SECONDS)


def _marked(mark: bytes) -> list[int]:
    found = []
    for file in _PROC.glob("[0-9]*/environ"):
        with suppress(OSError):  # it has exited, or is another user's
            if mark in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found


if __name__ == "__main__":
    main(sys.argv[1].encode())
