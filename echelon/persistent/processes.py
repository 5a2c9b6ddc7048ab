"""Process lifetimes and private folders of trainer processes."""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

# File, in the folder of a run, that names its trainer.
RECORD = "trainer.json"

_PROC = Path("/proc/self/stat")
_WATCH_SECONDS = 1.0


def birth(pid: int) -> str | None:
    """Return the start time of a process, which detects reuse of its pid; None if it has exited."""
    if not _PROC.exists():
        result = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return result.stdout.strip() or None
    try:
        fields = (_PROC.parents[1] / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def is_stopped(pid: int | None) -> bool:
    """Return whether a process is stopped, as by SIGSTOP."""
    if not _PROC.exists():
        result = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return result.stdout.strip().startswith("T")
    with suppress(OSError):  # it has exited
        return (_PROC.parents[1] / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def end(pid: int, born: str) -> None:
    """Kill a process and the process group it leads; do nothing if it has exited."""
    if birth(pid) == born:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def end_descendants() -> None:
    """Kill the processes that this one has started, and those that they have started, and so on."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    for pid in found[1:]:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _parents() -> Iterator[tuple[int, int]]:
    """Yield every process with its parent."""
    if not _PROC.exists():
        table = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        yield from ((int(pid), int(parent)) for pid, parent in map(str.split, table.splitlines()))
        return
    for file in _PROC.parents[1].glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has exited meanwhile
            yield int(file.parent.name), int(file.read_text().rpartition(")")[2].split()[1])


def end_with(pid: int, born: str | None, last: Callable[[], None] = lambda: None) -> None:
    """Exit this process, whatever it is doing, after another one has exited; ``last`` is called first."""

    def watch() -> None:
        while birth(pid) == born:
            time.sleep(_WATCH_SECONDS)
        last()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_parent() -> None:
    """Exit when the parent process exits; Flower's own process would keep reconnecting indefinitely."""
    parent = os.getppid()
    end_with(parent, birth(parent))


def private_folder(pid: int) -> Path:
    """Return the private folder of a process; remove the folders of processes that have exited.

    Raises
    ------
    PermissionError
        If another user owns or can access the folder.
    """
    base = Path(tempfile.gettempdir()) / f"echelon-{os.getuid()}"
    _make_private(base)
    for folder in base.iterdir():
        owner, _, born = folder.name.partition("-")
        if not owner.isdecimal() or birth(int(owner)) != _unquoted(born):
            shutil.rmtree(folder, ignore_errors=True)
    folder = base / f"{pid}-{_quoted(birth(pid) or '')}"
    _make_private(folder)
    return folder


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} must be a folder that only this user can access (mode 0700); remove it")


def _quoted(born: str) -> str:
    return born.replace(" ", "_")


def _unquoted(born: str) -> str:
    return born.replace("_", " ")
