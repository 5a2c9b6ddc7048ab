"""The clock of a simulated device."""

from collections.abc import Callable

from echelon.core.clocks import TOLERANCE


class VirtualClock:
    """Simulated time: a mini-batch takes ``samples / samples_per_second * jitter()``, without sleeping.

    Parameters
    ----------
    samples_per_second : float
        Speed of the device.
    jitter : callable
        Returns the factor of the next mini-batch; 1 is the nominal speed.
    """

    def __init__(self, samples_per_second: float, jitter: Callable[[], float]) -> None:
        self._seconds_per_sample = 1.0 / samples_per_second
        self._jitter = jitter
        self._factor = jitter()
        self.seconds = 0.0

    def fits(self, samples: int, budget_seconds: float) -> bool:
        """Return whether the next mini-batch ends within the budget; its duration is already drawn."""
        return self.seconds + self._duration(samples) <= budget_seconds * (1 + TOLERANCE)

    def tick(self, samples: int) -> None:
        """Advance the time by one mini-batch."""
        self.seconds += self._duration(samples)
        self._factor = self._jitter()

    def _duration(self, samples: int) -> float:
        return samples * self._seconds_per_sample * self._factor
