"""FedCompass (Li et al., ICLR 2024): unequal workers get numbers of local steps with which they arrive in groups."""

from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from echelon.algorithms.arrivals import ArrivalGroups, ArrivalRule
from echelon.core.mixing import Floats
from echelon.core.work import FullBatch
from echelon.server.in_flight import Event
from echelon.server.instructions import RoundInstructions
from echelon.server.options import Options

from .asynchronous import Asynchronous


class FedCompass(Asynchronous):
    """The server steps when a group of workers has arrived: x += lr sum_k p_k s(tau_k) (y_k - x_k).

    A worker gets between ``q_min`` and ``q_max`` local steps, by its speed, such that it arrives together with others
    (:class:`echelon.algorithms.arrivals.ArrivalGroups`). The server steps when all of a group have arrived, or when it
    has waited long enough; who comes later gets the current model at once, and its update counts in the next step. p_k
    is the worker's share of all samples, x_k the model that it had received, tau_k the steps that the server has taken
    since, and s(tau) = (1 + tau)^-exponent.

    Parameters
    ----------
    q_min, q_max : int
        Fewest and most local steps of a task, 1 <= q_min <= q_max.
    tolerance : float
        At least 0: a group that is expected after t seconds waits (1 + tolerance) t for its members.
    staleness_exponent : float
        At least 0; 0 counts fresh and stale updates alike.
    server_learning_rate : float
        lr, above 0.
    wall_clock : bool
        Whether workers measure real time: groups then wait in real time.
    **options : Options
        See :class:`echelon.server.options.Options`. ``work`` is a :class:`echelon.core.work.FullBatch` of one local
        step, which gives the size of a step; ``fold_late`` and ``grace_seconds`` have no meaning.
    """

    def __init__(
        self,
        q_min: int = 1,
        q_max: int = 5,
        *,
        tolerance: float = 0.2,
        staleness_exponent: float = 0.5,
        server_learning_rate: float = 1.0,
        wall_clock: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(staleness_exponent, server_learning_rate, wall_clock, **options)
        if not isinstance(self.work, FullBatch):
            raise ValueError("work must be full_batch with FedCompass, which sets the workers' steps; got non_blocking")
        if self.work.local_steps != 1:
            raise ValueError(
                f"local_steps must be 1 with FedCompass, which sets the workers' steps; got {self.work.local_steps}"
            )
        if q_min < 1:
            raise ValueError(f"strategy.q_min must be at least 1; got {q_min}")
        if q_max < q_min:
            raise ValueError(f"strategy.q_max must be at least q_min={q_min}; got {q_max}")
        if not tolerance >= 0:
            raise ValueError(f"strategy.tolerance must be at least 0; got {tolerance}")
        self.rule = ArrivalRule(q_min, q_max, tolerance)

    @property
    def _groups(self) -> ArrivalGroups:
        """Groups of the tasks in flight, held by the state: a resumed run keeps them."""
        return ArrivalGroups.held(self.state.extras, len(self.state.rows))

    def _work_of(self, rank: int) -> FullBatch:
        assert isinstance(self.work, FullBatch)
        return replace(self.work, local_steps=int(self._groups.steps[rank]))

    def _instructions(self) -> RoundInstructions:
        made = super()._instructions()
        return replace(made, target_samples=self._groups.steps * made.batch_sizes)

    def _give_task(self, rank: int) -> None:
        self._groups.assign(rank, self._step.now, self._schedule.communication, self._paces(), self.rule)
        super()._give_task(rank)

    def _paces(self) -> Floats:
        """Return the workers' estimated seconds per local step, shape (N,); NaN where unknown."""
        minibatches = self._schedule.instructions.batch_sizes / self.work.minibatch_size
        paces: Floats = self.state.seconds_per_minibatch * minibatches
        return paces

    def _arrived(self, event: Event) -> dict[str, Any] | None:
        """Let the worker wait for its group; one that has missed it continues, its update counts in the next step."""
        rank = event.rank
        if not self._groups.is_late(rank, event.due):
            # Counted with its group, not now: what a resumed run asks for again must still be in flight.
            self._schedule.waiting[rank] = event
            return self._step_if_complete(self._groups.members(rank))
        self._buffer(event)
        # As many late updates as there are workers do not wait for a group, which might never arrive in time.
        record = self._server_step() if len(self._step.buffer) >= self.num_workers else None
        self._give_tasks([rank])
        return record

    def _left(self, rank: int) -> dict[str, Any] | None:
        members = self._groups.members(rank)
        self._groups.leave([rank])
        return self._step_if_complete([member for member in members if member != rank])

    def _deadline(self) -> float:
        return min((float(self._groups.latest[rank]) for rank in self._schedule.waiting), default=np.inf)

    def _expire(self) -> dict[str, Any]:
        latest = self._groups.latest
        first = min(self._schedule.waiting, key=lambda rank: (latest[rank], rank))
        return self._step_with(self._groups.members(first))

    def _step_if_complete(self, members: list[int]) -> dict[str, Any] | None:
        complete = members and self._schedule.waiting.keys() >= set(members)
        return self._step_with(members) if complete else None

    def _step_with(self, members: list[int]) -> dict[str, Any]:
        """Step with those of a group who have arrived; the others will be late."""
        waiting = self._schedule.waiting
        arrived = sorted(waiting[rank] for rank in members if rank in waiting)
        for event in arrived:
            self._buffer(event)
        record = self._server_step()
        self._groups.leave(members)
        for event in arrived:
            del waiting[event.rank]
        self._give_tasks([event.rank for event in arrived])
        return record

    def _give_tasks(self, ranks: list[int]) -> None:
        """Give tasks to workers and to those that have failed, to the fastest first: it leads a group."""
        paces = self._paces()
        for rank in sorted({*ranks, *self._schedule.failed}, key=lambda rank: (not paces[rank] > 0, paces[rank], rank)):
            self._give_task(rank)

    def _weights(self) -> Floats:
        """Return K p_k for the K updates, so that their mean is the sum weighted by shares of samples."""
        held = self.session.shard_sizes.astype(np.float64)
        shares = held / held.sum() if held.all() else np.full(len(held), 1 / len(held))
        ranks = self._step.buffer.ranks
        weights: Floats = len(ranks) * shares[ranks]
        return weights
