"""What asynchronous strategies share: tasks in flight, arrivals in the order of the run's time, steps of the server."""

import heapq
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Unpack

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from echelon.core.mixing import Floats, Mixing
from echelon.core.strategy import RoundNumbers
from echelon.core.work import WorkPolicy
from echelon.protocol.messages import num_bytes
from echelon.server import metrics
from echelon.server.buffer import Update
from echelon.server.in_flight import Event, Schedule, Tasks, TimeAccount
from echelon.server.instructions import RoundInstructions
from echelon.server.options import Options
from echelon.server.replies import AutoNormLimit, Reply
from echelon.server.rounds import AllWorkersFailedError
from echelon.server.server_step import ServerStep, step_record
from echelon.server.session import Session
from echelon.server.strategy import FlowerStrategy
from echelon.server.updates import advance_state

# Of a task: the model to the worker, the update to the server.
_MODELS_PER_TASK = 2.0


class Asynchronous(FlowerStrategy):
    """Every worker has a task of its own; the server steps on a buffer of updates. All rows hold the one model.

    A subclass says in :meth:`_arrived` when the server steps and who gets a new task, and in :meth:`_weights` what an
    update counts. A round (and a record) is one step of the server.

    In simulation the updates arrive in the order of the run's time axis: a task ends at its start + its communication +
    the seconds that the worker reports. That is a discrete-event simulation over replies: the same bits whatever engine
    computes them in whatever order.

    Parameters
    ----------
    staleness_exponent : float
        At least 0; an update from a model that is s steps old has the weight (1 + s)^-exponent.
    server_learning_rate : float
        Above 0.
    wall_clock : bool
        Whether workers measure real time: the updates then count in the order in which they really arrive.
    **options : Options
        See :class:`echelon.server.options.Options`; every reply is late by design, so ``fold_late`` and
        ``grace_seconds`` have no meaning.
    """

    needs_server = "updates are buffered at the server"
    moves_between_rounds = True
    momentum_choices = ("local",)
    correction_choices = ("none",)
    _schedule: Schedule
    _step: ServerStep

    def __init__(
        self,
        staleness_exponent: float,
        server_learning_rate: float,
        wall_clock: bool,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        name = type(self).__name__
        if self.remembers:
            raise ValueError(f"work.estimator must not be memory with {name}, which has no rounds; got memory")
        if isinstance(options.get("norm_limit"), AutoNormLimit):
            raise ValueError(
                f"strategy.max_update_norm must be a number or null with {name}, which has no rounds of all workers; "
                "got auto"
            )
        if not staleness_exponent >= 0:
            raise ValueError(f"strategy.staleness_exponent must be at least 0; got {staleness_exponent}")
        if not server_learning_rate > 0:
            raise ValueError(f"strategy.server_learning_rate must be above 0; got {server_learning_rate}")
        self.staleness_exponent = staleness_exponent
        self.server_learning_rate = server_learning_rate
        self.wall_clock = wall_clock
        self.fold_late = True

    # What a subclass decides

    @abstractmethod
    def _arrived(self, event: Event) -> dict[str, Any] | None:
        """Take an update; return the record of the step that the server has taken with it, if it has."""

    @abstractmethod
    def _weights(self) -> Floats:
        """Return the weights of the buffer's updates beside staleness, 1 where all count alike; shape (updates,)."""

    def _left(self, rank: int) -> dict[str, Any] | None:
        """Return the record of the step that waited for nobody but this worker, which brings no update, if any."""
        return None

    def _deadline(self) -> float:
        """Return when, on the run's time axis, the server steps whoever has arrived by then; infinite for never."""
        return math.inf

    def _expire(self) -> dict[str, Any] | None:
        """Take the step of the deadline and return its record; None without a deadline."""
        return None

    def _work_of(self, rank: int) -> WorkPolicy:
        """Return the work of a worker's task."""
        return self.work

    # Rounds

    def open(self, grid: Grid, arrays: ArrayRecord, config: ConfigRecord) -> Session:
        """Open the run and give each worker a task, or continue with the tasks that were in flight."""
        session = super().open(grid, arrays, config)
        models = np.full(len(session.roster), _MODELS_PER_TASK)
        communication = metrics.communication_seconds(models, session.layout.num_bytes, session.roster)
        self._schedule = Schedule(Tasks.of(session.state), communication, self._instructions())
        self._step = self._new_step()
        for rank in np.flatnonzero(self._schedule.tasks.numbers == 0).tolist():
            self._give_task(rank)
        return session

    def mixing(self, numbers: RoundNumbers) -> Mixing:
        """Return the identity: no worker averages with a neighbour, every update goes to the server."""
        size = self.num_workers
        return Mixing(np.eye(size), nx.empty_graph(size), np.zeros(size))

    def ready(self) -> bool:
        """Return whether a worker is connected: nobody needs to be idle."""
        return bool(self.session.attendance.connected())

    def run_round(self, server_round: int, config: ConfigRecord, timeout: float) -> dict[str, Any]:
        """Let time pass until the server has taken a step; raises as :meth:`aggregate_train`."""
        exchange = self.session.exchange
        for rank in sorted(self._schedule.failed):  # in an earlier attempt at this step, in which all have failed
            self._give_task(rank)
        while (record := self._advance()) is None:
            tasks = self.configure_train(server_round, ArrayRecord(), config, exchange.grid)
            messages = chain(self.session.registration.query_newcomers(), tasks)
            if self.wall_clock:
                patience = self._step.seconds_until(self._deadline())
                replies = exchange.next_replies(messages, min(timeout, patience))
                if not replies and timeout <= patience:
                    self._fail()
                self._process(replies)
            else:
                self._process(chain(exchange.collect_late(), exchange.run(messages, timeout)))
        return record

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return train messages for idle workers; a worker that failed is retried after the next accepted update."""
        session, schedule = self._session or self.open(grid, arrays, config), self._schedule
        schedule.unsent.clear()
        busy = schedule.failed.union(schedule.waiting, (event.rank for event in schedule.events))
        return self._task_messages([rank for rank in session.free_ranks() if rank not in busy], config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Process replies; when they let the server step, return the new model and the round's metrics.

        Raises
        ------
        AllWorkersFailedError
            If the server cannot step and no further update can be expected.
        """
        self._process(replies)
        record = self._advance()
        return (None, None) if record is None else self._round_result(record)

    # Tasks

    def _instructions(self) -> RoundInstructions:
        session = self.session
        return RoundInstructions.make(session.state.round + 1, self.work, session.state, session.partition.batch_ratios)

    def _new_step(self) -> ServerStep:
        now = self.state.virtual_seconds
        return ServerStep(now, TimeAccount(now, self._schedule.communication))

    def _task_messages(self, ranks: list[int], config: ConfigRecord) -> Iterator[Message]:
        for rank in ranks:
            # A real device may have been disconnected for long: it starts from the current model.
            if self.wall_clock and self._schedule.tasks.versions[rank] < self.state.round:
                self._give_task(rank)
            yield self._task_message(rank, config)

    def _task_message(self, rank: int, config: ConfigRecord) -> Message:
        session, tasks = self.session, self._schedule.tasks
        state = tasks.state_at(rank, session.state)
        round_instructions = tasks.instructions_at(rank, self._schedule.instructions)
        instructions = round_instructions.instructions(rank, self.seed, self._work_of(rank), self.sgd, state)
        instructions = replace(instructions, server_round=int(tasks.numbers[rank]))
        message = self._message(rank, instructions, state, config, {})
        self._schedule.message_bytes[rank] = num_bytes(message.content)
        return message

    def _give_task(self, rank: int) -> None:
        schedule = self._schedule
        schedule.instructions = self._instructions()
        schedule.tasks.give(rank, self._step.now, self.state, schedule.instructions.budget_seconds)
        schedule.failed.discard(rank)
        schedule.unsent.add(rank)

    # Arrivals

    def _process(self, messages: Iterable[Message]) -> None:
        """Turn replies into task completions on the run's time axis."""
        schedule, session = self._schedule, self.session
        started = replace(session.state, rows=schedule.tasks.rows)
        received = session.processor.read(messages, schedule.instructions, started)
        self._step.disbelieved |= received.disbelieved
        schedule.add(received)
        expected = schedule.events or (self.wall_clock and session.exchange.busy_nodes)
        if not expected and math.isinf(self._deadline()):
            self._fail()

    def _advance(self) -> dict[str, Any] | None:
        """Let tasks complete, in order, until the server has stepped (return the record) or more replies are needed."""
        events, record = self._schedule.events, None
        while record is None:
            deadline = self._deadline()
            if events and (self.wall_clock or events[0].due <= deadline):
                if not self._is_next(events[0].due, events[0].rank):
                    return None
                record = self._complete(heapq.heappop(events))
            elif math.isfinite(deadline) and self._is_next(deadline, self.num_workers):
                if self.wall_clock and self._step.seconds_until(deadline):
                    return None
                self._step.pass_to(deadline)
                record = self._expire()
            else:
                return None
        return record

    def _fail(self) -> None:
        raise AllWorkersFailedError(self._step.received({}).failure(self.state.round + 1))

    def _is_next(self, due: float, rank: int) -> bool:
        """Return whether no task that has not been sent yet can complete before this time and rank."""
        earliest = self._schedule.earliest
        return self.wall_clock or all((due, rank) < (earliest[r], r) for r in self._schedule.unsent)

    def _complete(self, event: Event) -> dict[str, Any] | None:
        if math.isinf(event.due):
            self._fail()
        event = replace(event, due=max(self._step.now, event.due))
        self._step.pass_to(event.due)
        if isinstance(event.outcome, Reply):
            return self._arrived(event)
        if event.outcome is None:
            self._step.offline.add(event.rank)
            self._step.downlink_bytes += self._schedule.message_bytes[event.rank]
            record = self._left(event.rank)
            self._give_task(event.rank)
            return record
        self._count(event)
        self._step.rejections[event.rank] = event.outcome
        self._schedule.failed.add(event.rank)
        return self._left(event.rank)

    def _count(self, event: Event) -> None:
        """Count the bytes and the time of a task."""
        self._step.downlink_bytes += self._schedule.message_bytes[event.rank]
        self._step.time.count(event.rank, float(self._schedule.tasks.starts[event.rank]), event.due)

    def _buffer(self, event: Event) -> None:
        """Advance the state by a reply and put its update into the buffer."""
        session, schedule, rank, reply = self.session, self._schedule, event.rank, event.outcome
        assert isinstance(reply, Reply)
        assert reply.row is not None
        self._count(event)
        target = schedule.instructions.target_minibatches(rank, self.work.minibatch_size)
        advance_state({rank: reply}, schedule.instructions, session.state, self.work)
        if reply.report.samples:
            session.state.losses[rank] = reply.report.train_loss
        row, mixed = reply.row, session.mixed
        session.state.rows[rank, mixed.stop :] = row[mixed.stop :]
        staleness = session.state.round - int(schedule.tasks.versions[rank])
        delta = row[mixed] - schedule.tasks.rows[rank, mixed]
        self._step.buffer.updates.append(Update(rank, reply, staleness, delta, target))

    def _server_step(self) -> dict[str, Any]:
        """Apply the buffer to the model and return the round's record."""
        session, state, step = self.session, self.state, self._step
        change = self.server_learning_rate * step.buffer.mean_update(self._weights(), self.staleness_exponent)
        state.rows[:, session.mixed] = state.rows[0, session.mixed] + change
        record = step_record(step, self._schedule, session, self.work)
        state.round += 1
        state.virtual_seconds = step.now
        self._step = self._new_step()
        return record
