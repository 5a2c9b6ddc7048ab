"""Ends what a process has started, and what that has started, once the process has ended, also if it was killed.

Run as a program, which imports nothing of Echelon, it waits for the end of its standard input: that is the end of the
process that holds the other end of the pipe. It then kills all processes with a mark in their environment, which they
inherit from that process, and those that it has seen with the mark or as their descendants: Ray's agents overwrite
their environment with a title. Linux only: elsewhere nothing is marked, and nothing killed.
"""

import os
import select
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
_LOOK_SECONDS = 0.5


@contextmanager
def watched() -> Iterator[None]:
    """Within, whatever this process starts, directly or not, ends with it; at the end, whatever is left is killed.

    Processes of a pool or of an engine often notice the death of their parent themselves, but not all of them, and not
    while they start.
    """
    if not _PROC.exists():
        yield
        return
    mark, outer = uuid.uuid4().hex, os.environ.pop(_VARIABLE, None)
    command = [sys.executable, "-I", "-S", __file__, f"{_VARIABLE}={mark}"]
    # Without the mark of an outer one, whose watchdog would kill this one together with the process that it watches.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watchdog:
        os.environ[_VARIABLE] = mark
        try:
            yield
        finally:
            os.environ.pop(_VARIABLE, None)
            if outer is not None:
                os.environ[_VARIABLE] = outer
            with suppress(OSError):  # it may have been killed with all processes of this one
                watchdog.communicate(_DONE)


def main(mark: bytes) -> None:
    """Watch until the input ends, then kill what was seen; again, as long as there may be new processes."""
    seen: dict[int, str] = {}
    while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
        look(mark, seen)
    ended_in_order = sys.stdin.buffer.read() == _DONE
    for _ in range(_TRIES):
        look(mark, seen)
        for pid in seen:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if ended_in_order and not seen:
            return
        time.sleep(_PAUSE_SECONDS)


def look(mark: bytes, seen: dict[int, str]) -> None:
    """Find processes by their mark, and the descendants of those found, now or earlier.

    Parameters
    ----------
    mark : bytes
        ``NAME=value`` in the environment.
    seen : dict
        Of an earlier look: their starting times by process id. Changed in place: those found now are added, and those
        that have ended are removed.
    """
    alive: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    marked = []
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has exited, or is another user's
            pid = int(folder.name)
            state, parent, *rest = (folder / "stat").read_text().rpartition(")")[2].split()
            if state in "ZX":
                continue
            alive[pid] = rest[17]
            children.setdefault(int(parent), []).append(pid)
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                marked.append(pid)
    found = [*marked, *(pid for pid, born in seen.items() if alive.get(pid) == born)]
    for pid in found:  # it grows meanwhile
        found += [child for child in children.get(pid, ()) if child not in found]
    seen.clear()
    seen.update((pid, alive[pid]) for pid in found if pid in alive)


if __name__ == "__main__":
    main(sys.argv[1].encode())
