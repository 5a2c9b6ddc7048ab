"""Peer to peer on this machine: processes that exchange models by gloo, started, counted and led by this one.

The store is in this process, which is none of them. A process that is lost is ended for good and started again; the
others go on without it meanwhile.
"""

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Event
from typing import Any, Protocol

import torch.distributed as dist

from echelon.engines.member import HOST, INTERRUPT, Epoch, Member, in_one_line
from echelon.persistent.processes import birth, end_with, is_stopped
from echelon.persistent.watchdog import watched
from echelon.server.exchange import RunStoppedError

Work = Callable[[Member], None]

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0
# A process is started again as long as it has finished a round since one of its last starts.
_STARTS = 3
_BREAKS = 3
# Of the ten that a command has after a signal.
_STOP_SECONDS = 4.0


class ProcessFailedError(RuntimeError):
    """The run cannot go on; the message says why, in one line."""


class Conductor(Protocol):
    """Says what the processes do, step after step, and keeps what comes of it."""

    def first(self) -> str:
        """Return the first step."""

    def committed(self, step: str, values: Mapping[int, Any], lost: Mapping[int, str]) -> str:
        """Take what every process has found in a step that all have finished; return the next step, or ``end``.

        ``lost`` are the reasons for which processes were lost since the step before.
        """

    def interrupted(self) -> str:
        """Return the step that is still to be done when the run is to stop, or ``end``."""


def owners(num_workers: int, num_processes: int) -> list[int]:
    """Return the process that holds each worker, length N: as many workers in each as possible, in rank order.

    Examples
    --------
    >>> from echelon.engines.torch import owners
    >>> owners(5, 2)
    [0, 0, 0, 1, 1]
    """
    return [rank * num_processes // num_workers for rank in range(num_workers)]


def run(work: Work, owners: Sequence[int], conductor: Conductor, *, stop: Event, timeout: float) -> None:
    """Do work in several processes at once, until the conductor ends it.

    Parameters
    ----------
    work : callable
        (member) -> None; can be pickled, as a function of a module with its arguments. It calls
        :func:`echelon.engines.member.serve`.
    owners : sequence of int
        The process that holds each worker, by the worker's rank.
    conductor : Conductor
        Called in this process.
    stop : threading.Event
        Ends the run: what was begun is given up, what is to be saved is saved.
    timeout : float
        Seconds that a process may be later than the others, or be stopped.

    Raises
    ------
    ProcessFailedError
        If the work fails in a process, or all of them are lost.
    RunStoppedError
        If ``stop`` is set.
    """
    resource_tracker.ensure_running()  # outside: it outlives the processes of this run
    with watched():
        team = _Team(work, owners, conductor, stop, timeout)
        try:
            while not team.is_over:
                team.listen()
        finally:
            team.end()


@dataclass
class _Seat:
    """A process: what it has said since it was last answered, and how long it has let the others wait."""

    made: BaseProcess
    pipe: Connection
    said: tuple[str, Any] | None = None
    waited: float = 0.0


class _Team:
    """The processes, who of them takes part, and what they are doing."""

    def __init__(self, work: Work, owners: Sequence[int], conductor: Conductor, stop: Event, timeout: float) -> None:
        self._work, self._owners, self._timeout = work, tuple(owners), timeout
        self._conductor, self._stop, self._stopping = conductor, stop, False
        self._store = _store()
        self._seats: dict[int, _Seat] = {}
        self._starts: Counter[int] = Counter()
        self._pieces: dict[int, bytes] = {}
        self._members: tuple[int, ...] = ()
        self._fresh: set[int] = set()
        self._epoch, self._step, self._breaks, self._is_broken = 0, "", 0, False
        self._lost: dict[int, str] = {}
        self.is_over = False
        self._looked = time.monotonic()
        try:
            for process in range(max(owners) + 1):
                self._start(process)
        except BaseException:
            self.end()
            raise

    def listen(self) -> None:
        """Hear what the processes say, for a moment, and answer if all have spoken; raises as :func:`run`."""
        if self._stop.is_set() and not self._stopping:
            self._begin_to_stop()
        by_pipe = {seat.pipe: process for process, seat in self._seats.items()}
        for pipe in wait(list(by_pipe), _POLL_SECONDS):
            assert isinstance(pipe, Connection)
            process = by_pipe[pipe]
            try:
                said = pipe.recv()
            except (EOFError, OSError):
                self._lose(process, self._death(process))
                continue
            if said[0] == "failed":
                reason = said[1]
                raise ProcessFailedError(
                    reason if reason.startswith("worker") else f"{self.workers(process)}: {reason}"
                )
            self._seats[process].said, self._seats[process].waited = said, 0.0
        self._end_the_late()
        if not self._members:
            self._begin()
        elif all(self._seats[process].said for process in self._members):
            self._answer()

    def end(self) -> None:
        """Kill the processes that are left: all that they had to say has been said."""
        for seat in self._seats.values():
            seat.made.kill()
        for seat in self._seats.values():
            seat.made.join()

    def workers(self, process: int) -> str:
        """Return the workers of a process, as a subject."""
        held = [rank for rank, owner in enumerate(self._owners) if owner == process]
        return f"worker {held[0]}" if len(held) == 1 else f"workers {held[0]} to {held[-1]}"

    def _start(self, process: int) -> None:
        self._starts[process] += 1
        me, start = os.getpid(), multiprocessing.get_context("spawn")
        mine, theirs = start.Pipe()
        shared = (self._owners, self._store.port, self._timeout, me, birth(me))
        made = start.Process(target=_serve, args=(self._work, process, theirs, *shared), daemon=True)
        made.start()
        theirs.close()
        self._seats[process] = _Seat(made, mine)

    def _begin(self) -> None:
        """Let the run begin if all are ready."""
        if all(seat.said for seat in self._seats.values()):
            self._pieces |= {process: seat.said[1] for process, seat in self._seats.items() if seat.said}
            self._step = self._conductor.first()
            self._tell_all(self._new_epoch(tuple(sorted(self._seats))))

    def _answer(self) -> None:
        """Answer the members, who have all spoken."""
        said = {process: self._seats[process].said or ("", None) for process in self._members}
        kinds = {kind for kind, _ in said.values()}
        if self._is_broken or "broken" in kinds or len(kinds) > 1:
            self._regroup([str(value) for kind, value in said.values() if kind == "broken"])
        elif kinds == {"gather"}:
            self._tell_all(("gathered", {process: value for process, (_, value) in said.items()}))
        else:
            self._finish_step({process: value for process, (_, value) in said.items()})

    def _finish_step(self, values: Mapping[int, Any]) -> None:
        self._step = self._conductor.committed(self._step, values, self._lost)
        self._lost, self._breaks = {}, 0
        self._fresh.clear()
        for process in self._members:
            self._starts[process] = 0
        if self._step == "end":
            if self._stop.is_set():
                raise RunStoppedError("the run was stopped")
            self.is_over = True
            return
        waiting = {process: seat.said for process, seat in self._seats.items() if process not in self._members}
        ready = {process: said[1] for process, said in waiting.items() if said}
        if self._step != "round" or not ready:
            self._tell_all(("next", (self._step, None)))
            return
        before = self._members
        self._pieces |= ready
        self._fresh |= set(ready)
        _, epoch = self._new_epoch(tuple(sorted({*before, *ready})))
        self._tell_all(("next", (self._step, epoch)), before)
        self._tell_all(("epoch", epoch), tuple(ready))

    def _regroup(self, reasons: Sequence[str]) -> None:
        """Let the members that are left repeat the step."""
        if not self._is_broken and not self._stopping:
            self._breaks += 1
            if self._breaks > _BREAKS:
                raise ProcessFailedError(f"the processes lose their connections again and again: {reasons[0]}")
        if self._stopping:
            self._step = self._conductor.interrupted()
        self._tell_all(self._new_epoch(self._members))

    def _new_epoch(self, members: tuple[int, ...]) -> tuple[str, Epoch]:
        self._members, self._is_broken = members, False
        self._epoch += 1
        fresh = tuple(sorted(self._fresh))
        return "epoch", Epoch(self._epoch, members, fresh, self._step, dict(self._pieces))

    def _tell_all(self, answer: tuple[str, Any], processes: Sequence[int] | None = None) -> None:
        for process in self._members if processes is None else processes:
            seat = self._seats[process]
            seat.said, seat.waited = None, 0.0
            with suppress(OSError):  # it has ended, which is noticed when it is listened to
                seat.pipe.send(answer)

    def _begin_to_stop(self) -> None:
        """Interrupt what takes long, if there is something to save."""
        self._stopping = True
        if not self._members or self._conductor.interrupted() == "end":
            raise RunStoppedError("the run was stopped")
        for process in self._members:
            with suppress(ProcessLookupError):
                os.kill(self._seats[process].made.pid or 0, INTERRUPT)

    def _end_the_late(self) -> None:
        """End the processes for which the others wait too long, or that are stopped."""
        # If this process itself was stopped (Ctrl-Z), the others were, too.
        elapsed = min(time.monotonic() - self._looked, _LOOK_SECONDS)
        if elapsed < (_POLL_SECONDS if self._stopping else _LOOK_SECONDS):
            return
        self._looked = time.monotonic()
        others_wait = any(self._seats[process].said for process in self._members)
        limit = min(self._timeout, _STOP_SECONDS) if self._stopping else self._timeout
        for process, seat in list(self._seats.items()):
            is_late = others_wait and process in self._members  # while it starts, it may take its time
            if seat.said is None and (is_late or is_stopped(seat.made.pid)):
                seat.waited += elapsed
            if seat.waited > limit:
                how = "was stopped" if is_stopped(seat.made.pid) else "did not answer"
                self._lose(process, f"the process of {self.workers(process)} {how} for {limit:g} s (engine.timeout)")

    def _lose(self, process: int, reason: str) -> None:
        """Go on without a process, and start it again; raises as :func:`run` if none is left."""
        seat = self._seats.pop(process)
        seat.made.kill()  # for good: nothing of it may come later
        seat.made.join()
        seat.pipe.close()
        was_member = process in self._members
        if was_member:
            self._lost[process] = reason
            self._fresh.discard(process)
            self._is_broken = True
            self._members = tuple(other for other in self._members if other != process)
            if not set(self._members) - self._fresh:
                raise ProcessFailedError(f"no process is left; {reason}")
        if self._starts[process] < _STARTS and not self._stopping:
            self._start(process)
        elif not self._epoch:
            raise ProcessFailedError(reason)

    def _death(self, process: int) -> str:
        ended = self._seats[process].made
        ended.join(_LOOK_SECONDS)
        code = ended.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"the process of {self.workers(process)} {how}"


def _store() -> Any:
    """Return a store for the processes of this machine alone: by default it would listen to all networks."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        made = dist.TCPStore(  # type: ignore[attr-defined]
            HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.fileno()
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
    """Do the work in a process of its own; then wait to be ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all; the parent ends the run in order
        signal.signal(number, signal.SIG_IGN)
    end_with(parent, born)
    try:
        work(Member(process, owners, pipe, port, timeout))
    except (EOFError, ConnectionError):
        return  # the launcher has ended
    except Exception as error:
        traceback.print_exc()
        pipe.send(("failed", in_one_line(error)))
    while True:
        time.sleep(timeout)
