"""Clocks: measure a worker's compute time and decide whether another mini-batch fits its budget."""

import math
import time
from collections.abc import Callable
from typing import Protocol

# Budgets are predicted from reported times: rounding must not exclude a mini-batch that ends exactly on the budget.
TOLERANCE = 1e-6


class Clock(Protocol):
    """Measures the compute time of one worker in one round."""

    @property
    def seconds(self) -> float:
        """Compute seconds so far."""

    def fits(self, samples: int, budget_seconds: float) -> bool:
        """Return whether a mini-batch of ``samples`` would end within the budget."""

    def tick(self, samples: int) -> None:
        """Record a finished mini-batch of ``samples``."""


class WallClock:
    """Real time; the time per sample of the next mini-batch is estimated from this round's finished ones.

    Parameters
    ----------
    seconds_per_sample : float
        Estimate for the first mini-batch; NaN if unknown.
    speed_limit : float
        Maximum samples per second: the clock sleeps after a faster mini-batch.
    is_over : callable, optional
        Returns whether an event has ended the round, after which nothing fits; by default none does.
    """

    def __init__(
        self,
        seconds_per_sample: float = math.nan,
        speed_limit: float = math.inf,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._expected = seconds_per_sample
        self._speed_limit = speed_limit
        self._is_over = is_over
        self._samples = 0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the clock was created."""
        return time.perf_counter() - self._start

    def fits(self, samples: int, budget_seconds: float) -> bool:
        """Return whether a mini-batch is expected to end within the budget; an unknown duration fits."""
        if self._is_over():
            return False
        expected = self.seconds / self._samples if self._samples else self._expected
        return math.isnan(expected) or self.seconds + samples * expected <= budget_seconds * (1 + TOLERANCE)

    def tick(self, samples: int) -> None:
        """Record a finished mini-batch, and sleep if a speed limit applies."""
        self._samples += samples
        early = self._samples / self._speed_limit - self.seconds
        if early > 0:  # to sleep for 0 s would still leave the processor to others
            time.sleep(early)
