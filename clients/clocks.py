"""Clocks: how a worker measures its computing, and whether one more mini-batch fits its budget."""

import math
import time
from collections.abc import Callable
from typing import Protocol

# A budget is predicted from reported times: a mini-batch that ends on it must not fall out by rounding.
_TOLERANCE = 1e-6


class Clock(Protocol):
    """Measures one worker's computing in one round."""

    @property
    def seconds(self) -> float:
        """Seconds of computing so far."""

    def fits(self, samples: int, budget_seconds: float) -> bool:
        """Say whether a mini-batch of ``samples`` would end within the budget."""

    def tick(self, samples: int) -> None:
        """Note that a mini-batch of ``samples`` has been computed."""


class WallClock:
    """Real time: the next mini-batch is expected to take as long, per sample, as this round's did so far.

    Parameters
    ----------
    seconds_per_sample : float
        What to expect before the first mini-batch has ended; NaN if unknown.
    speed_limit : float
        Samples per second that the device shall not exceed: it sleeps after a mini-batch that was faster.
    """

    def __init__(self, seconds_per_sample: float = math.nan, speed_limit: float = math.inf) -> None:
        self._expected = seconds_per_sample
        self._speed_limit = speed_limit
        self._samples = 0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._start

    def fits(self, samples: int, budget_seconds: float) -> bool:
        """Say whether a mini-batch is expected to end within the budget; an unknown duration fits."""
        expected = self.seconds / self._samples if self._samples else self._expected
        return math.isnan(expected) or self.seconds + samples * expected <= budget_seconds * (1 + _TOLERANCE)

    def tick(self, samples: int) -> None:
        """Learn from a mini-batch that has ended."""
        self._samples += samples
        time.sleep(max(self._samples / self._speed_limit - self.seconds, 0.0))


class VirtualClock:
    """Simulated time: a mini-batch takes ``samples / samples_per_second * jitter()`` and nobody sleeps.

    Parameters
    ----------
    samples_per_second : float
        The device's speed.
    jitter : callable
        Returns the factor of the next mini-batch; 1 is the nominal speed.
    """

    def __init__(self, samples_per_second: float, jitter: Callable[[], float]) -> None:
        self._seconds_per_sample = 1.0 / samples_per_second
        self._jitter = jitter
        self._factor = jitter()
        self.seconds = 0.0

    def fits(self, samples: int, budget_seconds: float) -> bool:
        """Say whether the next mini-batch ends within the budget; its duration is already drawn."""
        return self.seconds + self._duration(samples) <= budget_seconds * (1 + _TOLERANCE)

    def tick(self, samples: int) -> None:
        """Let the time of a mini-batch pass."""
        self.seconds += self._duration(samples)
        self._factor = self._jitter()

    def _duration(self, samples: int) -> float:
        return samples * self._seconds_per_sample * self._factor
