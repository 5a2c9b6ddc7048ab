"""A lock on a run folder, held by the operating system: it ends with the process that holds it, however that ends."""

import errno
import fcntl
import logging
import os
from pathlib import Path
from weakref import WeakSet

NAME = "run.lock"

_NOT_SUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP)  # by some network file systems


class LockedError(RuntimeError):
    """Another process holds the lock; the message says which one, if it is known."""


class Lock:
    """The lock on a folder, held from construction to :meth:`release`.

    Parameters
    ----------
    folder : Path
        An existing folder. The lock is on the file ``run.lock`` in it, which holds the process id and is never removed.

    Raises
    ------
    LockedError
        If somebody else holds the lock.
    OSError
        If the file cannot be opened.
    """

    _descriptor: int | None = None

    def __init__(self, folder: Path) -> None:
        # Python closes the descriptor in every program that this process starts; `_release_all` does so in a fork.
        self._descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(self)
        try:
            self._take()
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            self.release()
            raise

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Let others lock the folder; do nothing if that was done."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _take(self) -> None:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            raise LockedError(f"in use by process {holder or '(unknown)'}") from error
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            logging.getLogger(__name__).warning("this file system has no locks: use the folder for one run at a time")


_held: "WeakSet[Lock]" = WeakSet()


def _release_all() -> None:
    """Close the descriptors that a fork shares with its parent: the lock would last as long as the fork."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_all)
