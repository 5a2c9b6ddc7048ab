"""FedBuff (Nguyen et al., AISTATS 2022): buffered asynchronous aggregation, in which no worker waits for another."""

from typing import Any, Unpack

from echelon.core.mixing import Floats
from echelon.server.in_flight import Event
from echelon.server.options import Options

from .asynchronous import Asynchronous


class FedBuff(Asynchronous):
    """The server steps when ``buffer_size`` updates have arrived: x += (lr / K) sum_k s(tau_k) (y_k - x_k).

    A worker that finishes gets the current model at once and continues; x_k is the model that it had received, tau_k
    the steps that the server has taken since, and s(tau) = (1 + tau)^-exponent. A round (and a record) is one step of
    the server.

    Parameters
    ----------
    buffer_size : int
        K, at least 1; may exceed the number of workers.
    staleness_exponent : float
        At least 0; 0 counts all updates alike.
    server_learning_rate : float
        lr, above 0.
    wall_clock : bool
        Whether workers measure real time: the updates then count in the order in which they really arrive.
    **options : Options
        See :class:`echelon.server.options.Options`; every reply is late by design, so ``fold_late`` and
        ``grace_seconds`` have no meaning.
    """

    def __init__(
        self,
        buffer_size: int = 4,
        *,
        staleness_exponent: float = 0.5,
        server_learning_rate: float = 1.0,
        wall_clock: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(staleness_exponent, server_learning_rate, wall_clock, **options)
        if buffer_size < 1:
            raise ValueError(f"strategy.buffer_size must be at least 1; got {buffer_size}")
        self.buffer_size = buffer_size

    def _arrived(self, event: Event) -> dict[str, Any] | None:
        self._buffer(event)
        record = self._server_step() if len(self._step.buffer) == self.buffer_size else None
        for idle in sorted({event.rank} | self._schedule.failed):
            self._give_task(idle)
        return record

    def _weights(self) -> Floats:
        """Return the work policy's factors: what partial work is worth."""
        buffer, state = self._step.buffer, self.state
        full = self.work.local_steps * self._schedule.instructions.batch_sizes
        return self.work.factors(buffer.samples, full[buffer.ranks], state.mean_samples[buffer.ranks])
