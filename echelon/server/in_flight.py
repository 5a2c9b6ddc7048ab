"""What workers are busy with where nobody waits for anybody: their tasks, when these end, where the time goes."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from echelon.server.instructions import Orders
from echelon.server.replies import Reply
from echelon.server.state import ServerState

_PREFIX = "task_"


@dataclass
class Tasks:
    """What every worker was given last, by rank.

    The arrays lie in the state's extras: a resumed run sends every task that was under way once more, just as it was.
    What else makes a task (cursor, momentum, estimate of speed) changes only when its reply is accounted.

    Attributes
    ----------
    numbers : int64 ndarray, shape (N,)
        Tasks that the worker has been given, this one included; seeds its draws.
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
        """Return the state as far as it went into a worker's task."""
        return replace(state, rows=self.rows, virtual_seconds=float(self.starts[rank]))

    def orders_at(self, rank: int, orders: Orders) -> Orders:
        """Return the orders of a worker's task."""
        return replace(orders, server_round=int(self.versions[rank]) + 1, budget_seconds=float(self.budgets[rank]))


@dataclass(frozen=True, order=True)
class Event:
    """The end of a task at ``due`` on the run's time axis: a reply, the reason for there being none, or None (away)."""

    due: float
    rank: int
    outcome: Reply | str | None = field(compare=False)


@dataclass
class TimeSheet:
    """Where the workers' time went since ``began``, in seconds by rank; what is in neither column was idle.

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

    def book(self, rank: int, start: float, now: float) -> None:
        """Book the time up to ``now`` of a task that began at ``start``, as far as it is not booked yet."""
        begin = max(start, float(self._until[rank]))
        middle = min(max(start + float(self.communication[rank]), begin), now)
        self.communicated[rank] += middle - begin
        self.computed[rank] += now - middle
        self._until[rank] = now

    def idle_share(self, rank: int, now: float) -> float | None:
        """Return the share of the time up to ``now`` that a worker was idle; None of no time."""
        busy = float(self.communicated[rank] + self.computed[rank])
        return max(1 - busy / (now - self.began), 0.0) if now > self.began else None
