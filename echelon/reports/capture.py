"""Capture the output of libraries in a log file and keep the terminal for Echelon."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console

_LOGGERS = ("flwr", "ray")


@contextmanager
def to_log(path: str | Path) -> Iterator[Console]:
    """Redirect the output of this process and its children to a file; yield a console on the terminal.

    Redirects file descriptors 1 and 2, for native code and subprocesses (Ray), as well as ``sys.stdout``,
    ``sys.stderr`` (Python warnings) and the handlers of the loggers ``flwr`` and ``ray``. Restores everything on exit,
    also after an exception, so that its traceback reaches the terminal.

    Parameters
    ----------
    path : str or Path
        Log file, opened for appending.

    Yields
    ------
    rich.console.Console
        The only access to the terminal within the context; unusable afterwards.
    """
    with ExitStack() as stack:
        log = Path(path).open("a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        stack.callback(_close, log)
        terminal = _terminal(stack)
        for descriptor in (1, 2):
            stack.enter_context(_descriptor_to(log, descriptor))
        stack.enter_context(_loggers_to(log, sys.stderr))
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        yield _console(terminal)


def _terminal(stack: ExitStack) -> TextIO:
    """Return a stream to the current destination of ``sys.stdout``, independent of descriptor 1."""
    try:
        is_descriptor_1 = sys.stdout.fileno() == 1
    except (OSError, ValueError, AttributeError):
        is_descriptor_1 = False
    if not is_descriptor_1:  # the stream of a test, notebook or editor
        return sys.stdout
    terminal = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace")
    stack.callback(_close, terminal)
    return terminal


def _close(stream: TextIO) -> None:
    with suppress(OSError):  # the reader of a pipe, such as head, has exited, or the disk is full
        stream.close()


@contextmanager
def _descriptor_to(log: TextIO, descriptor: int) -> Iterator[None]:
    stream = sys.stdout if descriptor == 1 else sys.stderr
    stream.flush()
    saved = os.dup(descriptor)
    os.dup2(log.fileno(), descriptor)
    try:
        yield
    finally:
        with suppress(OSError):  # a log on a full disk must not hide how the run ended
            stream.flush()
            log.flush()
        os.dup2(saved, descriptor)
        os.close(saved)


@contextmanager
def _loggers_to(log: TextIO, afterwards: TextIO) -> Iterator[None]:
    previous = [(handler, handler.setStream(log)) for name in _LOGGERS for handler in _stream_handlers(name)]
    try:
        yield
    finally:
        for handler, stream in previous:
            if stream is not None:
                _set_stream(handler, stream)
        # Handlers created in the meantime refer to the log, which is about to be closed.
        for name in ("root", *logging.root.manager.loggerDict):
            for handler in _stream_handlers(name):
                if handler.stream is log:
                    _set_stream(handler, afterwards)


def _set_stream(handler: "logging.StreamHandler[TextIO]", stream: TextIO) -> None:
    """Let a handler write to a stream, also if what it wrote to the one before cannot be flushed (a full disk)."""
    try:
        handler.setStream(stream)
    except OSError:
        handler.stream = stream


def _stream_handlers(name: str) -> list["logging.StreamHandler[TextIO]"]:
    handlers = logging.getLogger(name).handlers
    return [h for h in handlers if isinstance(h, logging.StreamHandler) and not isinstance(h, logging.FileHandler)]


def _console(terminal: TextIO) -> Console:
    if terminal.isatty() and not os.isatty(0):
        # Rich queries descriptors 0, 1 and 2 for the terminal size; none of them is the terminal here.
        columns, lines = os.get_terminal_size(terminal.fileno())
        return Console(file=terminal, width=columns, height=lines)
    return Console(file=terminal)
