"""One process of a run on this machine: the launcher tells it who takes part, and what is next."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from echelon.core.printable import printable
from echelon.peer.group import Group

HOST = "127.0.0.1"
INTERRUPT = signal.SIGUSR1
INTERRUPTED = "interrupted"
"""What a process says that gives up a step because the run is to stop."""


@dataclass(frozen=True)
class Epoch:
    """A time in which the same processes take part.

    Attributes
    ----------
    number : int
        From 0.
    members : tuple of int
        The processes, ascending.
    fresh : tuple of int
        Those of them that have joined a run that goes on, and have not finished a round since.
    step : str
        What is to be done first.
    pieces : dict of int to bytes
        What every process has said of its workers.
    """

    number: int
    members: tuple[int, ...]
    fresh: tuple[int, ...]
    step: str
    pieces: dict[int, bytes]


class RegroupedError(Exception):
    """Other processes take part from now on: what was begun is undone, and ``step`` follows."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


class InterruptedStepError(BaseException):
    """The run is to stop, in the middle of local steps or of an evaluation; no error of a client's code."""


class Member(Group):
    """A process that can lose the others; rows travel by gloo, in a process group for every :class:`Epoch`.

    Nothing waits for another process without a limit: what is sent by gloo takes at most half of ``timeout``, and the
    launcher, which answers all else, ends a process that is later than the others by ``timeout``.

    Parameters
    ----------
    process : int
        This one.
    owners : sequence of int
        The process that holds each worker, by the worker's rank.
    pipe : Connection
        To the launcher.
    port : int
        Of the launcher's store.
    timeout : float
        Seconds.
    """

    def __init__(self, process: int, owners: Sequence[int], pipe: Connection, port: int, timeout: float) -> None:
        self._hold(process, owners)
        self.device = torch.device("cpu")
        self._pipe, self._limit = pipe, timedelta(seconds=timeout / 2)
        # Two connections, so that the backend's threads never wait for the other.
        self.store, self._meeting = (
            dist.TCPStore(HOST, port, is_master=False, timeout=self._limit)  # type: ignore[attr-defined]
            for _ in range(2)
        )
        self._epoch = Epoch(-1, self.members, (), "", {})
        self._settled = -1
        self._stopping = self._interruptible = False
        signal.signal(INTERRUPT, self._interrupted)

    @property
    def fresh(self) -> tuple[int, ...]:
        """Processes that know nothing of the run yet, while others do."""
        return self._epoch.fresh

    def introduce(self, piece: bytes) -> dict[int, bytes]:
        """Tell of this process's workers and wait to take part; return what every process has said of its own."""
        self._join(self._ask("ready", piece))
        return self._epoch.pieces

    @property
    def step(self) -> str:
        """What is to be done first in this epoch."""
        return self._epoch.step

    def settle(self) -> None:
        """Connect with the other members, unless that is done."""
        if self._settled == self._epoch.number:
            return
        self._leave()
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        store = PrefixStore(f"epoch/{self._epoch.number}", self._meeting)
        rank, size = self.address(self.process), len(self.members)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=self._limit)
        self._settled = self._epoch.number

    def collect(self, piece: bytes) -> dict[int, bytes]:
        """Return what every member has given, by process; raises RegroupedError if one of them was lost."""
        found: dict[int, bytes] = self._ask("gather", piece)
        return found

    def commit(self, value: Any) -> str:
        """Finish a step, in which this process has found a value; return the next one; raises as :meth:`collect`."""
        step, epoch = self._ask("commit", value)
        self._join(epoch or replace(self._epoch, fresh=()))
        return str(step)

    def give_up(self, reason: str) -> str:
        """Give up a step that cannot be finished; return the next one, after the members have been counted again."""
        self._leave()  # which ends what the others wait for
        try:
            self._ask("broken", reason)
        except RegroupedError as new:
            return new.step
        raise RuntimeError("the launcher did not count the members again")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, a wish to stop raises InterruptedStepError; nothing may be changed or said there."""
        if self._stopping:
            raise InterruptedStepError
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _ask(self, kind: str, value: Any) -> Any:
        self._pipe.send((kind, value))
        answer, found = self._pipe.recv()
        if answer == "epoch" and kind != "ready":
            self._join(found)
            raise RegroupedError(found.step)
        return found

    def _join(self, epoch: Epoch) -> None:
        self._epoch, self.members = epoch, epoch.members

    def _leave(self) -> None:
        """Close the connections of an earlier epoch, so that nobody waits for this process there."""
        if dist.is_initialized():
            dist.destroy_process_group()
            gc.collect()  # what is under way holds the connections
        self._settled = -1

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        if self._interruptible:
            self._interruptible = False
            raise InterruptedStepError


class Served(Protocol):
    """What :func:`serve` needs of a process; see :class:`Member`."""

    @property
    def fresh(self) -> tuple[int, ...]:
        """Processes that know nothing of the run yet."""

    @property
    def step(self) -> str:
        """What is to be done first."""

    def settle(self) -> None:
        """Connect with the others."""

    def commit(self, value: Any) -> str:
        """Finish a step; return the next one."""

    def give_up(self, reason: str) -> str:
        """Give up a step; return the next one."""


def serve(
    member: Served, steps: Mapping[str, Callable[[], Any]], keep: Callable[[], None], undo: Callable[[], None]
) -> None:
    """Do the steps that the run's leader names, until it ends the run, and a launcher this process.

    Parameters
    ----------
    member : Served
        Once it takes part.
    steps : mapping of str to callable
        What each is; they return what the leader is told. The step ``join`` comes before all others in an epoch with
        fresh members; ``save`` needs no connection with them.
    keep, undo : callable
        Called after a step that all have finished, and after one that is to be repeated.
    """
    step = member.step
    while step != "end":
        try:
            if step != "save":
                member.settle()
                if member.fresh:
                    steps["join"]()
            step = member.commit(steps[step]())
            keep()
        except RegroupedError as new:
            undo()
            step = new.step
        except InterruptedStepError:
            undo()
            step = member.give_up(INTERRUPTED)
        except RuntimeError as error:  # of gloo or of the store
            undo()
            step = member.give_up(in_one_line(error))


def in_one_line(error: Exception) -> str:
    """Return the first line of an error, with its type unless it is a ValueError."""
    text = printable((str(error).strip() or type(error).__name__).splitlines()[0])
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
