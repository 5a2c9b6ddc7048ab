"""FedBuff (Nguyen et al., AISTATS 2022): buffered asynchronous aggregation, nobody waits for anybody."""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Unpack

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from echelon.protocol.messages import num_bytes
from echelon.server import metrics as records
from echelon.server.buffer import Buffer, Update
from echelon.server.in_flight import Event, Tasks, TimeSheet
from echelon.server.instructions import Orders, train_message
from echelon.server.options import Options
from echelon.server.replies import Reply
from echelon.server.strategy import AllWorkersFailedError, Ints, Mixing, PerWorkerStrategy
from echelon.server.updates import Received, account

# Of a task: the model to the worker, the update to the server.
_MODELS_PER_TASK = 2.0


class FedBuff(PerWorkerStrategy):
    """The server steps when ``buffer_size`` updates have come in: x += (lr / K) sum_k s(tau_k) (y_k - x_k).

    A worker that finishes gets the current model at once and goes on; x_k is the model that it had been given, tau_k
    the steps that the server has taken since, and s(tau) = (1 + tau)^-exponent. A round (and a record) is one step of
    the server. All rows hold the one model.

    In simulation the updates come in the order of the run's time axis: a task ends at its start + its communication +
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
        Whether workers measure real time: the updates then count in the order in which they really come in.
    **options : Options
        See :class:`echelon.server.options.Options`; late replies are what this strategy lives on, ``fold_late`` and
        ``grace_seconds`` have no meaning.
    """

    now: float
    buffer: Buffer
    tasks: Tasks

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

    def prepare(self, grid: Grid, arrays: ArrayRecord, config: ConfigRecord) -> None:
        """Enrol the workers and give each a task, or go on with the tasks that were under way."""
        super().prepare(grid, arrays, config)
        models = np.full(len(self.roster), _MODELS_PER_TASK)
        self._communication = records.communication_seconds(models, self.layout.num_bytes, self.roster)
        self._events: list[Event] = []
        self._failed: set[int] = set()
        self._unasked: set[int] = set()
        self._message_bytes: dict[int, int] = {}
        self._begin_round()
        self.orders = Orders.make(self.state.round + 1, self.work, self.state, self.plan)
        self.tasks = Tasks.of(self.state)
        for rank in np.flatnonzero(self.tasks.numbers == 0).tolist():
            self._give_task(rank)

    def round_mixing(self, server_round: int, present: Ints) -> Mixing:
        """Return that nobody averages with a neighbour: every update goes to the server."""
        size = len(self.roster)
        models_sent = np.bincount(self.buffer.ranks, minlength=size).astype(np.float64)
        return Mixing(np.eye(size), nx.empty_graph(size), models_sent)

    def run_round(self, server_round: int, config: ConfigRecord, timeout: float) -> dict[str, Any]:
        """Let time pass until the server has taken a step; raises as :meth:`aggregate_train`."""
        while (record := self._advance()) is None:
            asked = self.configure_train(server_round, ArrayRecord(), config, self.exchange.grid)
            messages = chain(self.enrolment.invite_newcomers(), asked)
            if self.wall_clock:
                replies = self.exchange.next_replies(messages, timeout)
                if not replies:
                    raise AllWorkersFailedError(self._received({}).failure(server_round))
                self._take_in(replies)
            else:
                self._take_in(chain(self.exchange.collect_late(), self.exchange.run(messages, timeout)))
        return record

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the tasks of the workers that are free; who has failed waits for another one's update first."""
        if not hasattr(self, "tasks"):
            self.prepare(grid, arrays, config)
        self._unasked.clear()
        waiting = self._failed.union(event.rank for event in self._events)
        return self._messages([rank for rank in self._free_ranks() if rank not in waiting], config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take replies in; when they fill the buffer, return the new model and the round's metrics.

        Raises
        ------
        AllWorkersFailedError
            If the buffer is not full and no update can be expected any more.
        """
        self._take_in(replies)
        record = self._advance()
        if record is None:
            return None, None
        return self.consensus(), MetricRecord({name: record[name] for name in ("train_loss", "consensus_distance")})

    def _messages(self, ranks: list[int], config: ConfigRecord) -> Iterator[Message]:
        for rank in ranks:
            # A real device may have been disconnected for long: it starts from the model of now.
            if self.wall_clock and self.tasks.versions[rank] < self.state.round:
                self._give_task(rank)
            yield self._train_message(rank, config)

    def _train_message(self, rank: int, config: ConfigRecord) -> Message:
        state = self.tasks.state_at(rank, self.state)
        orders = self.tasks.orders_at(rank, self.orders)
        instructions = orders.instructions(rank, self.seed, self.work, self.sgd, state)
        record = replace(instructions, server_round=int(self.tasks.numbers[rank])).to_config()
        record.update(config)
        message = train_message(self.roster.node_ids[rank], rank, record, state, self.layout, self.plan, {})
        self._message_bytes[rank] = num_bytes(message.content)
        return message

    def _give_task(self, rank: int) -> None:
        self.orders = Orders.make(self.state.round + 1, self.work, self.state, self.plan)
        self.tasks.give(rank, self.now, self.state, self.orders.budget_seconds)
        self._failed.discard(rank)
        self._unasked.add(rank)

    def _take_in(self, messages: Iterable[Message]) -> None:
        """Turn replies into what they are on the run's time axis: ends of tasks."""
        received = self.intake.read(messages, self.orders, replace(self.state, rows=self.tasks.rows))
        earliest = (self.tasks.starts + self._communication).tolist()
        ends = [Event(earliest[rank] + reply.report.seconds, rank, reply) for rank, reply in received.replies.items()]
        ends += [
            Event(max(earliest[rank], self.tasks.starts[rank] + s), rank, None) for rank, s in received.away.items()
        ]
        ends += [Event(earliest[rank], rank, reason) for rank, reason in received.rejections.items()]
        for event in ends:
            heapq.heappush(self._events, event)
        if not self._events and not (self.wall_clock and self.exchange.busy_nodes):
            raise AllWorkersFailedError(self._received({}).failure(self.orders.server_round))

    def _advance(self) -> dict[str, Any] | None:
        """Let tasks end, in order, until the server has stepped (return the record) or replies are lacking (None)."""
        while self._events and self._is_next(self._events[0]):
            event = heapq.heappop(self._events)
            if math.isinf(event.due):
                raise AllWorkersFailedError(self._received({}).failure(self.orders.server_round))
            self.now = max(self.now, event.due)
            self.downlink_bytes += self._message_bytes[event.rank]
            record = self._end(event)
            if record is not None:
                return record
        return None

    def _is_next(self, event: Event) -> bool:
        """Say whether no task that still has to be sent can end before this one."""
        earliest = self.tasks.starts + self._communication
        return self.wall_clock or all((event.due, event.rank) < (earliest[rank], rank) for rank in self._unasked)

    def _end(self, event: Event) -> dict[str, Any] | None:
        rank, outcome = event.rank, event.outcome
        if outcome is None:
            self._away.add(rank)
            self._give_task(rank)
            return None
        self._sheet.book(rank, float(self.tasks.starts[rank]), self.now)
        if isinstance(outcome, str):
            self._rejections[rank] = outcome
            self._failed.add(rank)
            return None
        self._receive(rank, outcome)
        record = self._step() if len(self.buffer) == self.buffer_size else None
        for free in sorted({rank} | self._failed):
            self._give_task(free)
        return record

    def _receive(self, rank: int, reply: Reply) -> None:
        """Account a reply and put its update into the buffer."""
        account({rank: reply}, self.orders, self.state, self.work.minibatch_size, self.work.ema)
        self.observe_losses({rank: reply})
        mixed = self.layout.num_parameters
        row: NDArray[np.float32] = reply.row  # type: ignore[assignment]
        self.state.rows[rank, mixed:] = row[mixed:]
        staleness = self.state.round - int(self.tasks.versions[rank])
        self.buffer.updates.append(Update(rank, reply, staleness, row[:mixed] - self.tasks.rows[rank, :mixed]))

    def _step(self) -> dict[str, Any]:
        """Apply the buffer to the model and return the round's record."""
        ranks = self.buffer.ranks
        full = self.work.local_steps * self.orders.batch_sizes
        factors = self.work.factors(self.buffer.samples, full[ranks], self.state.mean_samples[ranks])
        mixed = slice(self.layout.num_parameters)
        step = self.server_learning_rate * self.buffer.mean_update(factors, self.staleness_exponent)
        self.state.rows[:, mixed] = self.state.rows[0, mixed] + step
        record = self._record_step()
        self.state.round += 1
        self.state.virtual_seconds = self.now
        self._begin_round()
        return record

    def _begin_round(self) -> None:
        self.now = self.state.virtual_seconds
        self.buffer = Buffer()
        self.downlink_bytes = 0
        self._rejections: dict[int, str] = {}
        self._away: set[int] = set()
        self._sheet = TimeSheet(self.now, self._communication)

    def _record_step(self) -> dict[str, Any]:
        size, replies = len(self.roster), self.buffer.replies()
        self._away |= {event.rank for event in self._events if event.outcome is None}
        received = self._received(replies)
        absent = set(received.away) - set(replies)
        for rank in set(range(size)) - self._failed - self._away:
            self._sheet.book(rank, float(self.tasks.starts[rank]), self.now)

        def column(values: Sequence[float | None]) -> list[float | None]:
            return [None if rank in absent else values[rank] for rank in range(size)]

        mixing = self.round_mixing(self.orders.server_round, np.array(list(replies), dtype=np.int64))
        asked = records.asked(self.orders, self.work)
        tasks = mixing.models_sent.astype(np.int64).tolist()
        return {
            **asked,
            "target_minibatches": [n * target for n, target in zip(tasks, asked["target_minibatches"], strict=True)],
            "round_seconds": self.now - self.state.virtual_seconds,
            "virtual_seconds": self.now,
            **records.workers(received, [], size),
            "compute_seconds": column(self._sheet.computed.tolist()),
            "communication_seconds": column(self._sheet.communicated.tolist()),
            "idle_share": column([self._sheet.idle_share(rank, self.now) for rank in range(size)]),
            "staleness": self.buffer.staleness(size),
            **records.peer_traffic(mixing.graph, mixing.models_sent, self.layout.num_bytes),
            "consensus_distance": 0.0,
            "mean_drift": 0.0,
            "uplink_bytes": sum(reply.num_bytes for reply in replies.values()),
            "downlink_bytes": self.downlink_bytes,
        }

    def _received(self, replies: dict[int, Reply]) -> Received:
        return Received(replies, dict.fromkeys(self._away, 0.0), self._rejections)
