"""Peer to peer on this machine: processes of torch.distributed (gloo), started and watched by this one.

The store is in this process, which is none of them. If one of them fails, all are ended.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Event
from typing import Any

import torch.distributed as dist

from echelon.core.printable import printable
from echelon.peer.group import Group
from echelon.persistent.processes import birth, end_with
from echelon.persistent.watchdog import watched
from echelon.server.exchange import RunStoppedError

Say = Callable[[Any], None]
Work = Callable[[Group, Say], None]

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.1
# A process that was killed is known as such within this time after another one has lost the connection to it.
_DEATH_SECONDS = 1.0


class ProcessFailedError(RuntimeError):
    """One of the processes has failed; the message names its workers and the reason, in one line."""


def owners(num_workers: int, num_processes: int) -> list[int]:
    """Return the process that holds each worker, length N: as many workers in each as possible, in rank order.

    Examples
    --------
    >>> from echelon.engines.torch import owners
    >>> owners(5, 2)
    [0, 0, 0, 1, 1]
    """
    return [rank * num_processes // num_workers for rank in range(num_workers)]


def run(work: Work, owners: Sequence[int], hear: Say, *, stop: Event, timeout: float) -> None:
    """Do work in several processes at once; return when all have done it.

    Parameters
    ----------
    work : callable
        (group, say) -> None; can be pickled, as a function of a module with its arguments. ``say`` sends a value.
    owners : sequence of int
        The process that holds each worker, by the worker's rank.
    hear : callable
        Called in this process with every value that is said.
    stop : threading.Event
        Ends the processes, whatever they do.
    timeout : float
        Seconds that a process waits for another one.

    Raises
    ------
    ProcessFailedError
        If a process fails or is killed.
    RunStoppedError
        If ``stop`` is set.
    """
    resource_tracker.ensure_running()  # outside: it outlives the processes of this run
    with watched():
        team = _Team(work, owners, timeout)
        try:
            while team.pending:
                if stop.is_set():
                    raise RunStoppedError("the run was stopped")
                team.listen(hear)
        finally:
            team.end()


class _Team:
    """The processes, and what they say."""

    def __init__(self, work: Work, owners: Sequence[int], timeout: float) -> None:
        self._owners = tuple(owners)
        self._processes: list[BaseProcess] = []
        self.pending: dict[Connection, int] = {}
        self._waiting: list[Connection] = []  # their processes end when these are closed
        self._store = _store()
        me, start = os.getpid(), multiprocessing.get_context("spawn")
        try:
            for process in range(max(owners) + 1):
                mine, theirs = start.Pipe()
                shared = (self._owners, self._store.port, timeout, me, birth(me))
                made = start.Process(target=_serve, args=(work, process, theirs, *shared), daemon=True)
                made.start()
                theirs.close()
                self._processes.append(made)
                self.pending[mine] = process
        except BaseException:
            self.end()
            raise

    def listen(self, hear: Say) -> None:
        """Hear what has been said, for a moment; raises as :func:`run`."""
        for pipe in wait(list(self.pending), _POLL_SECONDS):
            assert isinstance(pipe, Connection)
            process = self.pending[pipe]
            try:
                kind, value = pipe.recv()
            except (EOFError, OSError):
                raise ProcessFailedError(self._death(process)) from None
            if kind == "said":
                hear(value)
            elif kind == "done":
                self._waiting.append(pipe)
                del self.pending[pipe]
            else:
                raise ProcessFailedError(self._cause(process, value))

    def end(self) -> None:
        """Kill the processes that are left: all that they had to say has been said."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _cause(self, process: int, reason: str) -> str:
        """Return what has happened first: a process that was killed makes the others fail, and one that fails waits."""
        wait([other.sentinel for other in self._processes], _DEATH_SECONDS)
        for number, other in enumerate(self._processes):
            if other.exitcode is not None:
                return self._death(number)
        return reason if reason.startswith("worker") else f"{self._workers(process)}: {reason}"

    def _death(self, process: int) -> str:
        ended = self._processes[process]
        ended.join(_DEATH_SECONDS)
        code = ended.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"the process of {self._workers(process)} {how}"

    def _workers(self, process: int) -> str:
        held = [rank for rank, owner in enumerate(self._owners) if owner == process]
        return f"worker {held[0]}" if len(held) == 1 else f"workers {held[0]} to {held[-1]}"


def _store() -> Any:
    """Return a store for the processes of this machine alone: by default it would listen to all networks."""
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        made = dist.TCPStore(  # type: ignore[attr-defined]
            _HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.fileno()
        )
        listener.detach()
        return made


def _serve(
    work: Work,
    process: int,
    pipe: Connection,
    owners: tuple[int, ...],
    port: int,
    timeout: float,
    parent: int,
    born: str | None,
) -> None:
    """Do the work in a process of its own; then wait to be ended, so that no other one loses a connection."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all; the parent ends the run in order
        signal.signal(number, signal.SIG_IGN)
    end_with(parent, born)
    try:
        work(_group(process, owners, port, timeout), lambda value: pipe.send(("said", value)))
        pipe.send(("done", None))
    except Exception as error:
        traceback.print_exc()
        pipe.send(("failed", _in_one_line(error)))
    while True:
        time.sleep(timeout)


def _group(process: int, owners: tuple[int, ...], port: int, timeout: float) -> Group:
    """Join the processes; two connections to the store, so that the backend's threads never wait for the other."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    size, limit = max(owners) + 1, timedelta(seconds=timeout)
    store, numbers = (dist.TCPStore(_HOST, port, is_master=False, timeout=limit) for _ in range(2))  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=process, world_size=size, timeout=limit)
    return Group(owners, store=numbers, timeout=timeout)


def _in_one_line(error: Exception) -> str:
    text = printable((str(error).strip() or type(error).__name__).splitlines()[0])
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
