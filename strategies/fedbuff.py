"""FedBuff (Nguyen et al., AISTATS 2022): buffered asynchronous aggregation, in which no worker waits for another."""

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Unpack

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from echelon.core.mixing import Floats, Mixing
from echelon.core.strategy import RoundNumbers
from echelon.protocol.messages import num_bytes
from echelon.server import metrics
from echelon.server.buffer import Buffer, Update
from echelon.server.in_flight import Event, Tasks, TimeAccount
from echelon.server.instructions import RoundInstructions
from echelon.server.options import Options
from echelon.server.replies import AutoNormLimit, Reply
from echelon.server.rounds import AllWorkersFailedError
from echelon.server.session import Session
from echelon.server.strategy import FlowerStrategy
from echelon.server.updates import Received, advance_state

# Of a task: the model to the worker, the update to the server.
_MODELS_PER_TASK = 2.0


@dataclass
class _Step:
    """What has happened since the server's last step, which was at ``now`` on the run's time axis."""

    now: float
    time: TimeAccount
    buffer: Buffer = field(default_factory=Buffer)
    rejections: dict[int, str] = field(default_factory=dict)
    disbelieved: dict[int, str] = field(default_factory=dict)
    offline: set[int] = field(default_factory=set)
    downlink_bytes: int = 0

    def received(self, replies: dict[int, Reply]) -> Received:
        """Return the step's replies, absences and rejections."""
        return Received(replies, dict.fromkeys(self.offline, 0.0), self.rejections, self.disbelieved)


@dataclass
class _Schedule:
    """Tasks in flight and the events that they lead to.

    ``unsent`` are workers with a new task that has not been sent; ``failed`` are workers that wait to be retried.
    """

    tasks: Tasks
    communication: Floats
    instructions: RoundInstructions
    events: list[Event] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    unsent: set[int] = field(default_factory=set)
    message_bytes: dict[int, int] = field(default_factory=dict)


class FedBuff(FlowerStrategy):
    """The server steps when ``buffer_size`` updates have arrived: x += (lr / K) sum_k s(tau_k) (y_k - x_k).

    A worker that finishes gets the current model at once and continues; x_k is the model that it had received, tau_k
    the steps that the server has taken since, and s(tau) = (1 + tau)^-exponent. A round (and a record) is one step of
    the server. All rows hold the one model.

    In simulation the updates arrive in the order of the run's time axis: a task ends at its start + its communication +
    the seconds that the worker reports. That is a discrete-event simulation over replies: the same bits whatever engine
    computes them in whatever order.

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

    needs_server = "updates are buffered at the server"
    momentum_choices = ("local",)
    correction_choices = ("none",)
    _schedule: _Schedule
    _step: _Step

    def __init__(
        self,
        buffer_size: int = 4,
        *,
        staleness_exponent: float = 0.5,
        server_learning_rate: float = 1.0,
        wall_clock: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        if self.work.remembers:
            raise ValueError("work.estimator must not be memory with strategy=fedbuff, which has no rounds; got memory")
        if isinstance(options.get("norm_limit"), AutoNormLimit):
            raise ValueError(
                "strategy.max_update_norm must be a number or null with strategy=fedbuff, which has no rounds of all "
                "workers; got auto"
            )
        if buffer_size < 1:
            raise ValueError(f"strategy.buffer_size must be at least 1; got {buffer_size}")
        if not staleness_exponent >= 0:
            raise ValueError(f"strategy.staleness_exponent must be at least 0; got {staleness_exponent}")
        if not server_learning_rate > 0:
            raise ValueError(f"strategy.server_learning_rate must be above 0; got {server_learning_rate}")
        self.buffer_size = buffer_size
        self.staleness_exponent = staleness_exponent
        self.server_learning_rate = server_learning_rate
        self.wall_clock = wall_clock
        self.fold_late = True

    def open(self, grid: Grid, arrays: ArrayRecord, config: ConfigRecord) -> Session:
        """Open the run and give each worker a task, or continue with the tasks that were in flight."""
        session = super().open(grid, arrays, config)
        models = np.full(len(session.roster), _MODELS_PER_TASK)
        communication = metrics.communication_seconds(models, session.layout.num_bytes, session.roster)
        self._schedule = _Schedule(Tasks.of(session.state), communication, self._instructions())
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
                replies = exchange.next_replies(messages, timeout)
                if not replies:
                    raise AllWorkersFailedError(self._step.received({}).failure(server_round))
                self._process(replies)
            else:
                self._process(chain(exchange.collect_late(), exchange.run(messages, timeout)))
        return record

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return train messages for idle workers; a worker that failed is retried after the next accepted update."""
        session = self._session or self.open(grid, arrays, config)
        self._schedule.unsent.clear()
        waiting = self._schedule.failed.union(event.rank for event in self._schedule.events)
        return self._task_messages([rank for rank in session.free_ranks() if rank not in waiting], config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Process replies; when they fill the buffer, return the new model and the round's metrics.

        Raises
        ------
        AllWorkersFailedError
            If the buffer is not full and no further update can be expected.
        """
        self._process(replies)
        record = self._advance()
        if record is None:
            return None, None
        return self._round_result(record)

    def _instructions(self) -> RoundInstructions:
        session = self.session
        return RoundInstructions.make(session.state.round + 1, self.work, session.state, session.partition.batch_ratios)

    def _new_step(self) -> _Step:
        now = self.state.virtual_seconds
        return _Step(now, TimeAccount(now, self._schedule.communication))

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
        instructions = round_instructions.instructions(rank, self.seed, self.work, self.sgd, state)
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

    def _process(self, messages: Iterable[Message]) -> None:
        """Turn replies into task completions on the run's time axis."""
        schedule, session = self._schedule, self.session
        started = replace(session.state, rows=schedule.tasks.rows)
        received = session.processor.read(messages, schedule.instructions, started)
        self._step.disbelieved |= received.disbelieved
        earliest = (schedule.tasks.starts + schedule.communication).tolist()
        events = [Event(earliest[rank] + reply.report.seconds, rank, reply) for rank, reply in received.replies.items()]
        events += [
            Event(max(earliest[rank], schedule.tasks.starts[rank] + seconds), rank, None)
            for rank, seconds in received.offline.items()
        ]
        events += [Event(earliest[rank], rank, reason) for rank, reason in received.rejections.items()]
        for event in events:
            heapq.heappush(schedule.events, event)
        if not schedule.events and not (self.wall_clock and session.exchange.busy_nodes):
            self._fail()

    def _advance(self) -> dict[str, Any] | None:
        """Let tasks complete, in order, until the server has stepped (return the record) or more replies are needed."""
        schedule = self._schedule
        while schedule.events and self._is_next(schedule.events[0]):
            event = heapq.heappop(schedule.events)
            if math.isinf(event.due):
                self._fail()
            self._step.now = max(self._step.now, event.due)
            self._step.downlink_bytes += schedule.message_bytes[event.rank]
            record = self._complete(event)
            if record is not None:
                return record
        return None

    def _fail(self) -> None:
        raise AllWorkersFailedError(self._step.received({}).failure(self._schedule.instructions.round))

    def _is_next(self, event: Event) -> bool:
        """Return whether no task that has not been sent yet can complete before this one."""
        earliest = self._schedule.tasks.starts + self._schedule.communication
        unsent = self._schedule.unsent
        return self.wall_clock or all((event.due, event.rank) < (earliest[rank], rank) for rank in unsent)

    def _complete(self, event: Event) -> dict[str, Any] | None:
        rank, outcome, step = event.rank, event.outcome, self._step
        if outcome is None:
            step.offline.add(rank)
            self._give_task(rank)
            return None
        step.time.count(rank, float(self._schedule.tasks.starts[rank]), step.now)
        if isinstance(outcome, str):
            step.rejections[rank] = outcome
            self._schedule.failed.add(rank)
            return None
        self._buffer(rank, outcome)
        record = self._server_step() if len(step.buffer) == self.buffer_size else None
        for idle in sorted({rank} | self._schedule.failed):
            self._give_task(idle)
        return record

    def _buffer(self, rank: int, reply: Reply) -> None:
        """Advance the state by a reply and put its update into the buffer."""
        session, tasks = self.session, self._schedule.tasks
        replies = {rank: reply}
        advance_state(replies, self._schedule.instructions, session.state, self.work)
        if reply.report.samples:
            session.state.losses[rank] = reply.report.train_loss
        assert reply.row is not None
        row, mixed = reply.row, session.mixed
        session.state.rows[rank, mixed.stop :] = row[mixed.stop :]
        staleness = session.state.round - int(tasks.versions[rank])
        self._step.buffer.updates.append(Update(rank, reply, staleness, row[mixed] - tasks.rows[rank, mixed]))

    def _server_step(self) -> dict[str, Any]:
        """Apply the buffer to the model and return the round's record."""
        session, buffer = self.session, self._step.buffer
        ranks, state = buffer.ranks, session.state
        full = self.work.local_steps * self._schedule.instructions.batch_sizes
        factors = self.work.factors(buffer.samples, full[ranks], state.mean_samples[ranks])
        change = self.server_learning_rate * buffer.mean_update(factors, self.staleness_exponent)
        state.rows[:, session.mixed] = state.rows[0, session.mixed] + change
        record = self._step_record()
        state.round += 1
        state.virtual_seconds = self._step.now
        self._step = self._new_step()
        return record

    def _step_record(self) -> dict[str, Any]:
        session, schedule, step = self.session, self._schedule, self._step
        size, replies = len(session.roster), step.buffer.replies()
        step.offline |= {event.rank for event in schedule.events if event.outcome is None}
        received = step.received(replies)
        absent = set(received.offline) - set(replies)
        for rank in set(range(size)) - schedule.failed - step.offline:
            step.time.count(rank, float(schedule.tasks.starts[rank]), step.now)

        def column(values: list[Any]) -> list[float | None]:
            return [None if rank in absent else values[rank] for rank in range(size)]

        tasks = np.bincount(step.buffer.ranks, minlength=size)
        workers = metrics.worker_fields(received, [], size)
        workers["rejected"] += session.exchange.take_unasked()
        targets = metrics.target_fields(schedule.instructions, self.work)
        per_task = targets["target_minibatches"]
        return {
            **targets,
            "target_minibatches": [n * target for n, target in zip(tasks.tolist(), per_task, strict=True)],
            "round_seconds": step.now - session.state.virtual_seconds,
            "virtual_seconds": step.now,
            **workers,
            "compute_seconds": column(step.time.computed.tolist()),
            "communication_seconds": column(step.time.communicated.tolist()),
            "idle_share": column([step.time.idle_share(rank, step.now) for rank in range(size)]),
            "staleness": step.buffer.staleness(size),
            **metrics.traffic_fields(nx.empty_graph(size), tasks.astype(np.float64), session.layout.num_bytes),
            "consensus_distance": 0.0,
            "mean_drift": 0.0,
            "uplink_bytes": sum(reply.num_bytes for reply in replies.values()),
            "downlink_bytes": step.downlink_bytes,
            "thin": False,
        }
