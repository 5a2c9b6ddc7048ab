"""Asynchronous tasks: assignments in flight, completion events and per-worker time accounting."""

import heapq
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from echelon.server.instructions import RoundInstructions
from echelon.server.replies import Reply
from echelon.server.state import ServerState
from echelon.server.updates import Received

_PREFIX = "task_"


@dataclass
class Tasks:
    """The latest task of every worker, by rank.

    The arrays lie in the state's extras: a resumed run sends every task that was in flight again, unchanged. The rest
    of a task (cursor, momentum, estimate of speed) changes only when its reply is processed.

    Attributes
    ----------
    numbers : int64 ndarray, shape (N,)
        Number of tasks given to the worker, this one included; seeds its draws.
    versions : int64 ndarray, shape (N,)
        Steps that the server had taken.
    starts : float64 ndarray, shape (N,)
        Seconds on the run's time axis.
    budgets : float64 ndarray, shape (N,)
        Seconds of computing allowed.
    rows : float32 ndarray, shape (N, P)
        The models that were sent.
    """

    numbers: NDArray[np.int64]
    versions: NDArray[np.int64]
    starts: NDArray[np.float64]
    budgets: NDArray[np.float64]
    rows: NDArray[np.float32]

    @classmethod
    def of(cls, state: ServerState) -> Self:
        """Return the tasks that a state holds; without any, room for them (all numbers are 0)."""
        size = len(state.rows)
        counts, seconds = np.zeros(size, dtype=np.int64), np.zeros(size)
        initial = cls(counts, counts.copy(), seconds, seconds.copy(), np.zeros_like(state.rows))
        held: dict[str, Any] = {name: state.extras.setdefault(_PREFIX + name, v) for name, v in vars(initial).items()}
        return cls(**held)

    def give(self, rank: int, start: float, state: ServerState, budget_seconds: float) -> None:
        """Give a worker the model that the state holds for it."""
        self.numbers[rank] += 1
        self.versions[rank] = state.round
        self.starts[rank] = start
        self.budgets[rank] = budget_seconds
        self.rows[rank] = state.rows[rank]

    def state_at(self, rank: int, state: ServerState) -> ServerState:
        """Return the state that a worker's task was made from."""
        return replace(state, rows=self.rows, virtual_seconds=float(self.starts[rank]))

    def instructions_at(self, rank: int, instructions: RoundInstructions) -> RoundInstructions:
        """Return the instructions of a worker's task."""
        server_round, budget = int(self.versions[rank]) + 1, float(self.budgets[rank])
        return replace(instructions, round=server_round, budget_seconds=budget)


@dataclass(frozen=True, order=True)
class Event:
    """A task completion at virtual time ``due``: a reply, an error message, or None if the worker is offline."""

    due: float
    rank: int
    outcome: Reply | str | None = field(compare=False)


@dataclass
class Schedule:
    """Tasks in flight and the events that they lead to.

    ``unsent`` are workers with a new task that has not been sent, ``failed`` workers that wait to be retried, and
    ``waiting`` workers whose update has arrived, when, and counts only with those of others.
    """

    tasks: Tasks
    communication: NDArray[np.float64]
    instructions: RoundInstructions
    events: list[Event] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    unsent: set[int] = field(default_factory=set)
    waiting: dict[int, Event] = field(default_factory=dict)
    message_bytes: dict[int, int] = field(default_factory=dict)

    @property
    def earliest(self) -> NDArray[np.float64]:
        """When each worker's task can end at the earliest, shape (N,): it communicates at least."""
        return self.tasks.starts + self.communication

    def add(self, received: Received) -> None:
        """Add the task completions that messages tell of."""
        earliest, starts = self.earliest.tolist(), self.tasks.starts.tolist()
        for rank, reply in received.replies.items():
            heapq.heappush(self.events, Event(earliest[rank] + reply.report.seconds, rank, reply))
        for rank, seconds in received.offline.items():
            heapq.heappush(self.events, Event(max(earliest[rank], starts[rank] + seconds), rank, None))
        for rank, reason in received.rejections.items():
            heapq.heappush(self.events, Event(earliest[rank], rank, reason))


@dataclass
class TimeAccount:
    """Seconds of communicating and computing since ``began``, by rank; the rest of the time was idle.

    A task communicates first (``communication`` seconds) and computes for the rest of its time.
    """

    began: float
    communication: NDArray[np.float64]
    communicated: NDArray[np.float64] = field(init=False)
    computed: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.communication)
        self.communicated, self.computed = np.zeros(size), np.zeros(size)
        self._until = np.full(size, self.began)

    def count(self, rank: int, start: float, now: float) -> None:
        """Count the time up to ``now`` of a task that began at ``start``, without counting any of it twice."""
        begin = max(start, float(self._until[rank]))
        if now <= begin:
            return
        middle = min(max(start + float(self.communication[rank]), begin), now)
        self.communicated[rank] += middle - begin
        self.computed[rank] += now - middle
        self._until[rank] = now

    def idle_share(self, rank: int, now: float) -> float | None:
        """Return the share of the time up to ``now`` that a worker was idle; None of no time."""
        busy = float(self.communicated[rank] + self.computed[rank])
        return max(1 - busy / (now - self.began), 0.0) if now > self.began else None
