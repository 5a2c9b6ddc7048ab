"""Processes and their private folders: who may talk to a trainer process, and how long it may live."""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc/self/stat")
_WATCH_SECONDS = 1.0


def birth(pid: int) -> str | None:
    """Return when a process was started, which tells it from another one with the same pid; None if it is gone."""
    if not _PROC.exists():
        ran = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return ran.stdout.strip() or None
    try:
        fields = (_PROC.parents[1] / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def end(pid: int, born: str) -> None:
    """End a process, with the group that it leads, at once; do nothing if it is gone."""
    if birth(pid) == born:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def end_with(pid: int, born: str | None, last: Callable[[], None] = lambda: None) -> None:
    """End this process, whatever it is doing, when another one has ended; ``last`` is called before."""

    def watch() -> None:
        while birth(pid) == born:
            time.sleep(_WATCH_SECONDS)
        last()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_parent() -> None:
    """End this process with the one that started it; Flower's would for ever try to reach one that has died."""
    parent = os.getppid()
    end_with(parent, birth(parent))


def private_folder(pid: int) -> Path:
    """Return a folder for what belongs to a process, which nobody but this user can enter; sweep those of dead ones.

    Raises
    ------
    PermissionError
        If another user owns or can enter what should be private.
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
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} must be a folder that nobody but this user can enter; remove it")


def _quoted(born: str) -> str:
    return born.replace(" ", "_")


def _unquoted(born: str) -> str:
    return born.replace("_", " ")
