"""Arrival groups: numbers of local steps with which unequal workers finish together.

Source: Li et al., FedCompass, ICLR 2024, arXiv 2309.14675, the scheduler Compass.
"""

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PREFIX = "arrival_"
# Rounding must neither cost a worker a step nor make it late.
_STEP_SLACK, _TIME_SLACK = 1e-6, 1e-9


@dataclass(frozen=True)
class ArrivalRule:
    """Bounds of the scheduler.

    Parameters
    ----------
    q_min, q_max : int
        Fewest and most local steps of a task, 1 <= q_min <= q_max.
    tolerance : float
        At least 0. A group expected after t seconds waits (1 + tolerance) t for its members (the paper's lambda).
    """

    q_min: int
    q_max: int
    tolerance: float


@dataclass
class ArrivalGroups:
    """The group and the task of every worker, by rank; the workers of a group have equal times.

    Attributes
    ----------
    numbers : int64 ndarray, shape (N,)
        The worker's group; -1 without one: it has no task yet, or its group did not wait for it.
    steps : int64 ndarray, shape (N,)
        Local steps of the worker's task.
    expected, latest : float64 ndarray, shape (N,)
        When the group is expected to arrive, and until when it waits: seconds on the run's time axis. Infinite for a
        worker of unknown speed, which is a group of its own.

    Examples
    --------
    The third worker takes four times as long per step; with one step it arrives with the others.

    >>> import numpy as np
    >>> from echelon.algorithms.arrivals import ArrivalGroups, ArrivalRule
    >>> groups = ArrivalGroups.held({}, 3)
    >>> for rank in range(3):
    ...     groups.assign(rank, 0.0, np.zeros(3), np.array([1.0, 1.0, 4.0]), ArrivalRule(1, 4, 0.25))
    >>> groups.steps.tolist(), groups.expected.tolist(), groups.latest.round(3).tolist()
    ([4, 4, 1], [4.0, 4.0, 4.0], [5.0, 5.0, 5.0])
    """

    numbers: Ints
    steps: Ints
    expected: Floats
    latest: Floats

    @classmethod
    def held(cls, arrays: MutableMapping[str, Any], num_workers: int) -> Self:
        """Return the groups that a mapping holds, which shares their arrays; it gets them if it has none."""
        none, steps, times = np.full(num_workers, -1), np.zeros(num_workers, dtype=np.int64), np.zeros(num_workers)
        initial = cls(none, steps, times, times.copy())
        return cls(**{name: arrays.setdefault(_PREFIX + name, value) for name, value in vars(initial).items()})

    def assign(self, rank: int, now: float, delays: Floats, paces: Floats, rule: ArrivalRule) -> None:
        """Give a worker steps with which it joins the group that lets it do the most; else it is a new group.

        Parameters
        ----------
        rank : int
            The worker; it leaves its present group.
        now : float
            Seconds on the run's time axis.
        delays, paces : float64 ndarray, shape (N,)
            Seconds of communicating per task, and of computing per step; a pace that is not above 0 is unknown.
        rule : ArrivalRule
            Bounds.
        """
        self.numbers[rank] = -1
        pace, start = float(paces[rank]), now + float(delays[rank])
        if not pace > 0:
            self._create(rank, rule.q_min, math.inf, math.inf)
            return
        fits = [(self._steps_until(g, start, pace), g) for g in self._leaders()]
        joined = max(((q, -g) for q, g in fits if rule.q_min <= q <= rule.q_max), default=None)
        if joined is not None:
            steps, leader = int(joined[0]), -joined[1]
            for values in (self.numbers, self.expected, self.latest):
                values[rank] = values[leader]
            self.steps[rank] = steps
            return
        steps = self._steps_alone(now, start, paces, rank, rule)
        expected = start + steps * pace
        self._create(rank, steps, expected, now + (1 + rule.tolerance + _TIME_SLACK) * (expected - now))

    def members(self, rank: int) -> list[int]:
        """Return the ranks in a worker's group; none if it is in no group."""
        number = self.numbers[rank]
        return np.flatnonzero(self.numbers == number).tolist() if number >= 0 else []

    def leave(self, ranks: list[int]) -> None:
        """Take workers out of their group; those that are still computing will be late."""
        self.numbers[ranks] = -1

    def is_late(self, rank: int, when: float) -> bool:
        """Return whether a worker that arrives then has missed its group."""
        return bool(self.numbers[rank] < 0 or when > self.latest[rank])

    def _leaders(self) -> list[int]:
        """Return the lowest rank of every group."""
        numbers, first = np.unique(self.numbers, return_index=True)
        return sorted(first[numbers >= 0].tolist())

    def _create(self, rank: int, steps: int, expected: float, latest: float) -> None:
        self.numbers[rank] = self.numbers.max() + 1
        self.steps[rank], self.expected[rank], self.latest[rank] = steps, expected, latest

    def _steps_until(self, leader: int, start: float, pace: float) -> float:
        return float(np.floor((self.expected[leader] - start) / pace + _STEP_SLACK))

    def _steps_alone(self, now: float, start: float, paces: Floats, rank: int, rule: ArrivalRule) -> int:
        """Return the steps of a new group: such that the fastest of an existing one can arrive with it next time."""
        found: list[float] = []
        for leader in self._leaders():
            latest = float(self.latest[leader])
            if now < latest < math.inf:
                fastest = float(paces[self.members(leader)].min())
                steps = np.floor((latest + rule.q_max * fastest - start) / paces[rank] + _STEP_SLACK)
                found += [float(steps)] if steps <= rule.q_max else []
        return max(int(max(found)), rule.q_min) if found else rule.q_max
