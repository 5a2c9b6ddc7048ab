"""Ctrl-C and SIGTERM: announced at once, obeyed in order where there is something to save, and within seconds anyway.

A thread learns of a signal from the descriptor that Python's C handler writes to, so that it can answer while the main
thread is busy in native code, or while a library has replaced the Python handler. Nothing here imports more than the
standard library: a script installs it before its imports, which take seconds.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event
from types import FrameType
from typing import NoReturn

from echelon.persistent import processes

GRACE_SECONDS = 10.0
"""How long an orderly end may take; schedulers and containers kill after 10 to 30 seconds."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_IMPATIENT_SECONDS = 1.0  # a second signal within this time is the same wish, sent twice
_SHOW_CURSOR = b"\x1b[?25h"


class _Process:
    """How this process answers; there is one, because signals are those of a process."""

    def __init__(self) -> None:
        self.installed = False
        self.number = 0
        self.since = 0.0
        self.unannounced = threading.Lock()  # taken, for good, by the thread that says "stopping ..."
        self.stop: Event | None = None
        self.told = False  # the work has been told to stop: the main thread ends the process when it has
        self.say: Callable[[str], None] | None = None
        self.last_words: Callable[[], str] = lambda: "interrupted"
        self.interruptible = False
        self.forks_stay = True
        self.error_output = 2


_process = _Process()


def install() -> None:
    """Take over SIGINT and SIGTERM; until :func:`graceful`, they end the process at once.

    Call it in the main thread.
    """
    _process.error_output = os.dup(2)  # standard error, whatever descriptor 2 is redirected to later
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_restore_defaults)
    _process.installed = True
    reinstall()


def reinstall() -> None:
    """Set the handlers again, in case a library has replaced them (Ray does); do nothing if there are none."""
    if _process.installed:
        for number in _SIGNALS:
            signal.signal(number, _handle)


def status() -> int | None:
    """Return the exit status that the first signal asks for, 130 or 143; None if there was none."""
    return 128 + _process.number if _process.number else None


@contextmanager
def graceful(stop: Event, last_words: Callable[[], str], say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within, the first signal sets ``stop``; the process ends after ``GRACE_SECONDS``, or at a second signal.

    Parameters
    ----------
    stop : threading.Event
        Tells the work to end.
    last_words : callable
        Returns the line to say if the process is ended before the work.
    say : callable, optional
        Shows a line; by default it is written to standard error.
    """
    _process.stop, _process.last_words, _process.say = stop, last_words, say
    try:
        yield
    finally:
        _process.stop = _process.say = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, nothing changes that would have to be saved: a signal raises KeyboardInterrupt in the main thread.

    Raises
    ------
    KeyboardInterrupt
        Also if there was a signal before.
    """
    if _process.number:
        raise KeyboardInterrupt
    before, _process.interruptible = _process.interruptible, True
    try:
        yield
    finally:
        _process.interruptible = before


@contextmanager
def own_groups() -> Iterator[None]:
    """Within, every fork leads a process group of its own, which a signal to the group of this process does not reach.

    For an engine whose processes must outlive the signal until this process, which needs them, has ended in order.
    """
    _process.forks_stay = False
    try:
        yield
    finally:
        _process.forks_stay = True


def leave(number: int) -> NoReturn:
    """End this process with an exit status, and all processes that it has started, whatever its threads do."""
    if _process.number:
        _announce(_write)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader of a pipe has gone, or the stream is closed
            stream.flush()
    if os.isatty(_process.error_output):
        os.write(_process.error_output, _SHOW_CURSOR)
    processes.end_descendants()
    os._exit(number)


def _handle(number: int, frame: FrameType | None) -> None:
    """Answer in the main thread; `_watch` does what must not wait for it."""
    _note(number)
    if _process.interruptible:
        _process.interruptible = False
        raise KeyboardInterrupt


def _watch(descriptor: int) -> None:
    while True:
        for number in os.read(descriptor, 64):
            if number in _SIGNALS:
                _receive(number)


def _receive(number: int) -> None:
    signal.alarm(0)  # Ray's core answers a SIGTERM, before it passes it on, with an alarm that aborts the process
    again = _process.number and time.monotonic() - _process.since > _IMPATIENT_SECONDS
    _note(number)
    if _process.stop is None and (again or not _process.told):
        leave(128 + _process.number)
    if again:
        _end()
    if not _process.unannounced.locked():
        end = threading.Timer(GRACE_SECONDS, _end)
        end.daemon = True
        end.start()
        _announce(_process.say or _write)


def _note(number: int) -> None:
    """Remember the first signal; the main thread or the watching one may be the first to know."""
    if not _process.number:
        _process.number, _process.since = number, time.monotonic()
    if _process.stop is not None:
        _process.told = True
        _process.stop.set()


def _announce(say: Callable[[str], None]) -> None:
    if not _process.unannounced.acquire(blocking=False):
        return
    try:
        say("stopping ...")
    except ValueError:  # the work has ended meanwhile, and has closed its output
        _write("stopping ...")


def _end() -> None:
    _write(_process.last_words())
    leave(128 + _process.number)


def _write(line: str) -> None:
    with suppress(OSError):
        os.write(_process.error_output, f"{line}\n".encode())


def _restore_defaults() -> None:
    """Undo :func:`install` in a fork, whose signals must not reach its parent through the descriptor they share."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    _process.installed = False
    if not _process.forks_stay:
        os.setpgid(0, 0)
    _unblock()


def _block() -> None:
    """Hold signals back until the fork has its own handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
