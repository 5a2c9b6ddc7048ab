"""How long a node waits before it asks the SuperLink for a message again."""

import time
from collections.abc import Callable

SHORTEST_SECONDS = 0.1
"""An empty poll costs a SuperLink about 10 ms of CPU time."""

LONGEST_SECONDS = 3.0
"""What Flower's SuperNode always waits."""

_SHARE = 1 / 20


class Pace:
    """The pause grows with the time since the last message: a message waits at most a twentieth of that time.

    Parameters
    ----------
    clock : callable
        Returns seconds.

    Examples
    --------
    >>> from echelon.deployment.pace import Pace
    >>> now = 100.0
    >>> pace = Pace(lambda: now)
    >>> pace.heard(None)
    >>> pace.pause()
    0.1
    >>> now += 10
    >>> pace.pause()
    0.5
    >>> now += 600
    >>> pace.pause()
    3.0
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard = clock()
        self._shortest = SHORTEST_SECONDS

    def heard(self, poll_seconds: float | None) -> None:
        """Take note of a message, and of the shortest pause that its server wants, if it says so."""
        self._heard = self._clock()
        wanted = SHORTEST_SECONDS if poll_seconds is None else poll_seconds
        self._shortest = min(max(wanted, 0.01), LONGEST_SECONDS)

    def pause(self) -> float:
        """Return the seconds to wait."""
        return min(max(self._shortest, _SHARE * (self._clock() - self._heard)), LONGEST_SECONDS)
