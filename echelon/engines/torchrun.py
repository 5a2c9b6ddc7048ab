"""Processes that ``torchrun`` has started, on one machine or many; the first of them leads the run, too.

None of them can be missed: when one is lost, all end, and torchrun's agents start all of them again if they may. What
they say to each other goes through the agents' store, which outlives them; rows travel by gloo.
"""

import os
import pickle
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from echelon.engines.member import INTERRUPTED, InterruptedStepError, RegroupedError
from echelon.engines.torch import Conductor, owners
from echelon.peer.group import Group
from echelon.persistent import signals

_LOOK_SECONDS = 0.5
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.02
# The first process says first who is late.
_LATER_SECONDS = 5.0
# Of the ten that a command has after a signal: one that was lost does not answer to it.
_STOP_SECONDS = 3.0


class LostError(Exception):
    """The run cannot go on; the message says why, in one line."""


class EndedError(Exception):
    """The first process, which has said why, has ended the run with an exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def is_started() -> bool:
    """Return whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def size() -> int:
    """Return how many processes torchrun has started."""
    return int(os.environ["WORLD_SIZE"])


class Rank(Group):
    """A process of torchrun; it holds workers as those of :func:`echelon.engines.torch.owners` do.

    Every process must make the same calls. They raise LostError if another process is lost, and EndedError in all but
    the first one if that has ended the run.

    Parameters
    ----------
    num_workers : int
        N, at least the number of processes.
    timeout : float
        Seconds that a process may be later than the others once the rounds have begun.

    Attributes
    ----------
    fresh : tuple
        Empty: nobody joins a run that goes on.
    step : str
        What is to be done first, after :meth:`introduce`.
    earlier : str or None
        What :meth:`remember` was told before torchrun started all processes again.
    """

    fresh: tuple[int, ...] = ()

    def __init__(self, num_workers: int, timeout: float) -> None:
        self._hold(int(os.environ["RANK"]), owners(num_workers, size()))
        self.device = torch.device("cpu")
        self._timeout, self.step = timeout, ""
        self._stop, self._stopped_at = Event(), 0.0
        self._conductor: Conductor | None = None
        self._steps = self._given_here = 0
        self._has_begun = False
        self._given = ""
        # Two connections, so that the backend's threads never wait for the other.
        self._run, meeting = (PrefixStore(f"echelon/{os.environ['TORCHELASTIC_RUN_ID']}", _connect()) for _ in range(2))
        self._generation = self._lead_meeting() if self.is_first else self._meet()
        self.store = PrefixStore(f"run/{self._generation}", self._run)
        self._meeting = PrefixStore(f"gloo/{self._generation}", meeting)
        known = pickle.dumps(self._run.get("began").decode() if self._run.check(["began"]) else None)
        self.earlier: str | None = pickle.loads(self.collect(known)[0])

    def remember(self, what: str) -> None:
        """Tell the processes that torchrun starts after this one, if it must."""
        self._run.set("began", what)

    def lead(self, conductor: Conductor) -> None:
        """Let a conductor in this process, the first one, say what all of them do."""
        self._conductor = conductor

    def stops_with(self, stop: Event) -> None:
        """End the run, in order, when an event is set in this process."""
        self._stop = stop

    def introduce(self, piece: bytes) -> dict[int, bytes]:
        """Return what every process says of its workers; after it, rounds begin."""
        pieces = self.collect(piece)
        self.step = self._decided(lambda conductor: conductor.first())
        self._has_begun = True
        return pieces

    def settle(self) -> None:
        """Connect with the other processes, unless that is done."""
        if not dist.is_initialized():
            limit = timedelta(seconds=self._timeout)
            dist.init_process_group(
                "gloo", store=self._meeting, rank=self.process, world_size=self.num_processes, timeout=limit
            )

    def collect(self, piece: bytes) -> dict[int, bytes]:
        """Return what every process has given, by process; raises RegroupedError if the step is given up."""
        name = f"given/{self._steps}/{self._given_here}"
        self._given_here += 1
        self.store.set(f"{name}/{self.process}", piece)  # type: ignore[arg-type]
        keys = [f"{name}/{process}" for process in self.members]
        self._await(keys)
        pieces = self.store.multi_get(keys)
        if self._given:  # all have read it, or they would not have given these
            self.store.delete_key(self._given)
        self._given = f"{name}/{self.process}"
        return dict(zip(self.members, pieces, strict=True))

    def commit(self, value: Any) -> str:
        """Finish a step, in which this process has found a value; return the next one."""
        self.store.set(f"done/{self._steps}/{self.process}", pickle.dumps((value, self._stop.is_set())))  # type: ignore[arg-type]
        return self._decided(self._judge)

    def give_up(self, reason: str) -> str:
        """Give up a step; return the next one if this process was only interrupted; otherwise it is lost."""
        if reason != INTERRUPTED:
            raise LostError(f"rank {self.process} has lost another one: {reason}")
        self.store.set(f"given up/{self._steps}", "")
        return self._after_giving_up()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, a wish to stop raises InterruptedStepError; nothing may be changed or said there."""
        try:
            with signals.interruptible():
                yield
        except KeyboardInterrupt:
            raise InterruptedStepError from None

    def fail(self, reason: str) -> bool:
        """Tell the first process why this one ends; return whether it has heard that: an agent ends it after that."""
        with suppress(RuntimeError):  # the store has gone with the first agent
            self.store.set("failed", reason)
            end = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < end:
                if self.store.check(["ended"]):
                    return True
                time.sleep(_LONGEST_PAUSE)
        return False

    def close(self, status: int) -> None:
        """End the run in all processes, with an exit status that the first one says."""
        if self.is_first:
            with suppress(RuntimeError):  # the store has gone
                self.store.set("ended", str(status))
        if dist.is_initialized():
            dist.destroy_process_group()

    def _judge(self, conductor: Conductor) -> str:
        """Let the conductor say what follows from what all processes have found in a step."""
        keys = [f"done/{self._steps}/{process}" for process in self.members]
        self._await(keys)
        said = {process: pickle.loads(self.store.get(key)) for process, key in zip(self.members, keys, strict=True)}
        for key in keys:
            self.store.delete_key(key)
        if any(is_stopped for _, is_stopped in said.values()):
            self._stop.set()
        return conductor.committed(self.step, {process: value for process, (value, _) in said.items()}, {})

    def _after_giving_up(self) -> str:
        self._stop.set()
        return self._decided(lambda conductor: conductor.interrupted())

    def _decided(self, choose: Callable[[Conductor], str]) -> str:
        """Return the next step, which the first process chooses."""
        key = f"step/{self._steps}/0"
        if self._conductor is None:
            self._await([key])
            self.step, is_stopped = pickle.loads(self.store.get(key))
            if is_stopped:
                self._stop.set()
        else:
            self.step = choose(self._conductor)
            self.store.set(key, pickle.dumps((self.step, self._stop.is_set())))  # type: ignore[arg-type]
            self.store.delete_key(f"step/{self._steps - 1}/0")  # all have read it: they were in the step it named
        self._steps, self._given_here = self._steps + 1, 0
        return self.step

    def _await(self, keys: list[str]) -> None:
        """Wait until everything is in the store; raises as the class says, and RegroupedError."""
        began, looked, pause = time.monotonic(), 0.0, _SHORTEST_PAUSE
        while not self.store.check(keys):  # its `wait` warns on the terminal whenever a limit is over
            waited = time.monotonic() - began
            if waited - looked > _LOOK_SECONDS:
                looked = waited
                self._look(keys, waited)
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    def _look(self, keys: list[str], waited: float) -> None:
        """Raise what there is to learn while one waits."""
        if self.is_first and self.store.check(["failed"]):
            raise LostError(self.store.get("failed").decode())
        if not self.is_first and self.store.check(["ended"]):
            raise EndedError(int(self.store.get("ended")))
        if int(self._run.add("generation", 0)) > self._generation:
            raise LostError("torchrun has started the processes again")
        is_decision = keys[0].startswith("step/")
        if not is_decision and self.store.check([f"given up/{self._steps}"]):
            raise RegroupedError(self._after_giving_up())
        if self._stop.is_set():
            self._stopped_at = self._stopped_at or time.monotonic()
            if min(waited, time.monotonic() - self._stopped_at) > _STOP_SECONDS:
                raise LostError(f"{self._missing(keys)} did not answer for {_STOP_SECONDS:g} s after the signal")
        limit = self._timeout + (0 if self.is_first else _LATER_SECONDS)
        if self._has_begun and waited > limit:
            raise LostError(f"{self._missing(keys)} did not answer for {waited:.0f} s (engine.timeout)")

    def _missing(self, keys: list[str]) -> str:
        missing = [key.rpartition("/")[2] for key in keys if not self.store.check([key])]
        return f"rank {missing[0]}" if missing else "a rank"

    def _lead_meeting(self) -> int:
        """Give these processes a number; those of an earlier start, which may not have ended yet, have another one."""
        number, told = int(self._run.add("generation", 1)), set[bytes]()
        others = self.members[1:]
        while not self._run.check([f"here/{number}/{other}" for other in others]):
            for other in others:
                name = f"name/{other}"
                if self._run.check([name]) and (found := self._run.get(name)) not in told:
                    told.add(found)
                    self._run.set(f"number/{found.decode()}", str(number))
            time.sleep(_LONGEST_PAUSE)
        return number

    def _meet(self) -> int:
        """Return the number that the first process gives."""
        name = uuid.uuid4().hex
        self._run.set(f"name/{self.process}", name)
        number = int(self._run.get(f"number/{name}"))
        self._run.set(f"here/{number}/{self.process}", "")
        return number


def _connect() -> Any:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False)  # type: ignore[attr-defined]
