"""The round loop that all strategies share: one model row per worker, kept by the server.

A strategy says with whom to average (`PerWorkerStrategy.round_mixing`); the rest is here and in its collaborators:
roster, exchange, intake, work policy, state and record.
"""

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from logging import INFO
from typing import Any, Unpack

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore import log
from numpy.typing import NDArray

from echelon.algorithms.mixing import consensus_distance, mean_drift, mix
from echelon.core.sgd import SGD
from echelon.core.work import FullBatch, WorkPolicy
from echelon.protocol.messages import TrainInstructions, num_bytes
from echelon.server import metrics as records
from echelon.server.evaluation import EvaluateFn, consensus_row, evaluate_message, evaluate_models, workers_fields
from echelon.server.exchange import Exchange
from echelon.server.instructions import Orders, train_message
from echelon.server.layout import Layout, Row
from echelon.server.nodes import Roster
from echelon.server.options import Options, Plan
from echelon.server.registration import Enrolment
from echelon.server.replies import Reply
from echelon.server.state import ServerState
from echelon.server.updates import Intake, Received, account, weighed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class AllWorkersFailedError(RuntimeError):
    """A round in which no worker returned a usable model."""


@dataclass(frozen=True)
class Mixing:
    """How a round's rows are combined.

    Attributes
    ----------
    matrix : ndarray, shape (N, N)
        X+ = matrix @ Y; an absent worker's row is a unit vector.
    graph : networkx.Graph
        The edges that were active, between workers that were present.
    models_sent : ndarray, shape (N,)
        Models that each worker sends in a peer-to-peer deployment.
    leaders : tuple of ndarray, or None
        Ranks of the best and of the best connected neighbour of every worker (AL-DSGD).
    """

    matrix: Floats
    graph: nx.Graph
    models_sent: Floats
    leaders: tuple[Ints, Ints] | None = None


class PerWorkerStrategy(Strategy):
    """A Flower strategy that keeps one model row per worker.

    Parameters
    ----------
    **options : Options
        See :class:`echelon.server.options.Options`.

    Attributes
    ----------
    state : ServerState
        From :meth:`prepare` on.
    roster : Roster
        From :meth:`prepare` on.
    """

    state: ServerState
    roster: Roster

    def __init__(self, **options: Unpack[Options]) -> None:
        self.work: WorkPolicy = options.get("work") or FullBatch()
        self.sgd = options.get("sgd") or SGD()
        self.seed = options.get("seed", 0)
        self.eval_every = options.get("eval_every", 1)
        if self.eval_every < 1:
            raise ValueError(f"eval_every must be at least 1; got {self.eval_every}")
        self.grace_seconds = options.get("grace_seconds", float("inf"))
        self.fold_late = options.get("fold_late", False)
        self._options = options

    @abstractmethod
    def round_mixing(self, server_round: int, present: Ints) -> Mixing:
        """Return how the rows are combined in a round (from 1) in which the workers ``present`` (ranks) took part."""

    def factors(self, replies: Mapping[int, Reply]) -> Floats:
        """Return the weights k_i of the local updates, in the order of ``replies``."""
        ranks = np.array(list(replies), dtype=np.int64)
        samples = np.array([reply.report.samples for reply in replies.values()], dtype=np.int64)
        full = self.work.local_steps * self.orders.batch_sizes
        return self.work.factors(samples, full[ranks], self.state.mean_samples[ranks])

    def combine(self, updated: Mapping[int, Row], mixing: Mixing) -> float:
        """Put the workers' new rows in their places and mix: adapt, then combine (X+ = W Y).

        Returns
        -------
        float
            The distance by which mixing moved the mean model.
        """
        for rank, row in updated.items():
            self.state.rows[rank] = row
        drift = mean_drift(mixing.matrix, self.state.rows, self.layout.num_parameters)
        mix(mixing.matrix, self.state.rows, self.layout.num_parameters)
        return drift

    def adopt(self, arrays: ArrayRecord) -> None:
        """Go on from the model that Flower's loop hands over: a wrapper (of differential privacy) may have changed it.

        Raises
        ------
        ValueError
            If it is not the consensus model: what a wrapper does to that one would be lost on the workers' own.
        """
        if not np.array_equal(self.layout.row(arrays), consensus_row(self.state.rows)):
            raise ValueError(
                f"{type(self).__name__} keeps a model per worker, so a strategy wrapper must not change the consensus "
                "model; only AllReduce goes with such a wrapper"
            )

    def enough(self) -> bool:
        """Say whether the round can do without the replies that have not come yet (``intake.received`` have)."""
        return False

    def select(self, received: Received) -> None:
        """Take replies that are not to count out of ``received``, and name their workers as dropped."""

    def observe_losses(self, replies: Mapping[int, Reply]) -> None:
        """Note the workers' mean training losses of the round."""
        for rank, reply in replies.items():
            if reply.report.samples:
                self.state.losses[rank] = reply.report.train_loss

    def extra_arrays(self, rank: int) -> tuple[dict[str, ArrayRecord], dict[str, float]]:
        """Return what a worker gets beside its row: array records by key, and the instructions that go with them."""
        return {}, {}

    def prepare(self, grid: Grid, arrays: ArrayRecord, config: ConfigRecord) -> None:
        """Enrol the workers (sending ``config`` along); make the plan and the initial state, or go on from one."""
        options = self._options
        self.exchange = Exchange(grid, options.get("window"), options.get("stop"))
        self.layout = Layout(arrays, options.get("buffers"))
        question = TrainInstructions(seed=self.seed, minibatch_size=self.work.minibatch_size)
        self.enrolment = Enrolment(self.exchange, question, config)
        self.roster = self.enrolment.enrol(options.get("num_workers"), options.get("roster_timeout", 600.0))
        plan = options.get("plan") or Plan()
        self.plan = plan(self.roster) if callable(plan) else plan
        planned = None if self.plan.parts is None else np.array([len(part) for part in self.plan.parts])
        self.shard_sizes = self.roster.shard_sizes if planned is None else planned
        norm_limit = options.get("norm_limit")
        self.intake = Intake(self.exchange, self.enrolment, self.layout, planned, norm_limit, self.fold_late, self.sgd)
        if planned is not None and len(planned) != len(self.roster):
            raise ValueError(f"the plan is for {len(planned)} workers; {len(self.roster)} have enrolled")
        self.state = self._state_at_start(arrays)
        unknown = np.isnan(self.state.seconds_per_minibatch)
        self.state.seconds_per_minibatch[unknown] = self.roster.seconds_per_minibatch[unknown]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a round's messages: to every worker that is free, its own row and its instructions."""
        if not hasattr(self, "state"):
            self.prepare(grid, arrays, config)
        if arrays:
            self.adopt(arrays)
        self.asked = self._free_ranks()
        self.orders = Orders.make(server_round, self.work, self.state, self.plan, self.asked)
        self.downlink_bytes = 0
        return (self._train_message(rank, config) for rank in self.asked)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies, update and mix the rows; return the consensus model and the round's metrics.

        Raises
        ------
        AllWorkersFailedError
            If no reply is usable.
        """
        record = self.finish_round(replies)
        return self.consensus(), MetricRecord({name: record[name] for name in ("train_loss", "consensus_distance")})

    def finish_round(self, messages: Iterable[Message]) -> dict[str, Any]:
        """Do the server's half of a round and return its record; raises as :meth:`aggregate_train`."""
        received = self.intake.read(messages, self.orders, self.state)
        free_again = set(self._free_ranks()).difference(self.asked)  # replies came, but too late for their round
        if not received.replies and not received.away and (received.rejections or not free_again):
            raise AllWorkersFailedError(received.failure(self.orders.server_round))
        self.select(received)
        silent = received.silent(self.asked)
        self.intake.remember(silent, self.state)
        present = np.array(list(received.replies), dtype=np.int64)
        account(received.replies, self.orders, self.state, self.work.minibatch_size, self.work.ema)
        self.observe_losses(received.replies)
        mixed = slice(self.layout.num_parameters)
        factors = self.factors(received.replies)
        updated = weighed(received.replies, factors, self.state, mixed, self.intake.norm_limit)
        mixing = self.round_mixing(self.orders.server_round, present)
        drift = self.combine(updated, mixing)
        record = self._record(received, silent, mixing) | {"mean_drift": drift}
        self.state.round = self.orders.server_round
        self.state.virtual_seconds = record["virtual_seconds"]
        return record

    def consensus(self) -> ArrayRecord:
        """Return the mean of all workers' models."""
        return self.layout.arrays(consensus_row(self.state.rows))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages that let every free worker evaluate its own model on its own data."""
        if not hasattr(self, "state"):
            self.prepare(grid, arrays, config)
        return (
            evaluate_message(self.roster.node_ids[rank], rank, config, self.state, self.layout, self.plan)
            for rank in self._free_ranks()
        )

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the workers' own accuracy and loss, averaged by the samples that they evaluated."""
        senders = ((self.intake.sender(reply, MessageType.EVALUATE), reply) for reply in replies)
        by_rank = {rank: reply for rank, reply in senders if rank is not None}
        metrics, self.evaluated = workers_fields(by_rank, len(self.roster))
        return metrics

    def summary(self) -> None:
        """Log what will run."""
        log(INFO, "\t├──> Work: %s", self.work)
        log(INFO, "\t└──> SGD: %s", self.sgd)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run ``num_rounds`` rounds in all, as Flower's ``Strategy.start`` but with a model per worker.

        Parameters
        ----------
        grid, initial_arrays, num_rounds, evaluate_fn
            As in Flower. ``evaluate_fn`` is called for the consensus model and for every worker's; without it the
            workers evaluate their models on their own data.
        timeout : float
            Real seconds after which the workers that are silent are left out of a round.
        train_config, evaluate_config : ConfigRecord, optional
            Sent to the workers as they are, beside the round's instructions.

        Returns
        -------
        Result
            With the consensus model; ``state`` has every worker's.

        Raises
        ------
        RosterError
            If the workers do not enrol.
        AllWorkersFailedError
            If a round brings no usable model.
        """
        train_config = train_config or ConfigRecord()
        self.prepare(grid, initial_arrays, train_config)
        self.summary()
        result = Result()
        if evaluate_fn is not None and self.state.round == 0:
            self._evaluate(0, result, evaluate_fn, evaluate_config, timeout)
        while self.state.round < num_rounds:
            began = time.monotonic()
            server_round = self.state.round + 1
            record = self.run_round(server_round, train_config, timeout)
            result.train_metrics_clientapp[server_round] = MetricRecord({"train_loss": record["train_loss"]})
            if server_round % self.eval_every == 0 or server_round == num_rounds:
                record |= self._evaluate(server_round, result, evaluate_fn, evaluate_config, timeout)
            self.state.wall_seconds += time.monotonic() - began
            record["wall_seconds"] = self.state.wall_seconds
            for callback in self._options.get("on_round", ()):
                callback(record, self.state)
        result.arrays = self.consensus()
        return result

    def run_round(self, server_round: int, config: ConfigRecord, timeout: float) -> dict[str, Any]:
        """Do a round and return its record; an asynchronous strategy has its own idea of one."""
        return self.finish_round(self._exchange_round(server_round, config, timeout))

    def _exchange_round(self, server_round: int, config: ConfigRecord, timeout: float) -> Iterable[Message]:
        late = self.exchange.collect_late()
        messages = self.configure_train(server_round, ArrayRecord(), config, self.exchange.grid)
        if self.fold_late:
            folded = {self.intake.sender(reply, MessageType.TRAIN) for reply in late}
            self.asked = [rank for rank in self.asked if rank not in folded]
            messages = (self._train_message(rank, config) for rank in self.asked)
        invitations = self.enrolment.invite_newcomers()
        seconds = min(timeout, self.orders.budget_seconds + self.grace_seconds)
        return chain(late, self.exchange.run(chain(invitations, messages), seconds, self.enough, timeout))

    def _evaluate(
        self,
        server_round: int,
        result: Result,
        evaluate_fn: EvaluateFn | None,
        config: ConfigRecord | None,
        timeout: float,
    ) -> dict[str, Any]:
        """Evaluate on the server, or else on the workers; note it in the result and return the record's fields."""
        if evaluate_fn is not None:
            metrics, fields = evaluate_models(evaluate_fn, server_round, self.state.rows, self.layout)
            if metrics is not None:
                result.evaluate_metrics_serverapp[server_round] = metrics
            return fields
        questions = self.configure_evaluate(server_round, ArrayRecord(), config or ConfigRecord(), self.exchange.grid)
        metrics = self.aggregate_evaluate(server_round, self.exchange.run(questions, timeout))
        if metrics is not None:
            result.evaluate_metrics_clientapp[server_round] = metrics
        return self.evaluated

    def _state_at_start(self, arrays: ArrayRecord) -> ServerState:
        num_momentum = self.layout.num_parameters if self.sgd.momentum else 0
        initial = ServerState.initial(self.layout.row(arrays), len(self.roster), num_momentum)
        state = self._options.get("state")
        if state is None:
            return initial
        if state.rows.shape != initial.rows.shape:
            raise ValueError(
                f"the state to go on from has {state.rows.shape[0]} models of {state.rows.shape[1]} values; "
                f"this run has {initial.rows.shape[0]} of {initial.rows.shape[1]}"
            )
        state.momentum = initial.momentum if state.momentum is None else state.momentum
        return state

    def _free_ranks(self) -> list[int]:
        """Return the ranks whose nodes are connected and have answered every earlier message."""
        ranks, busy = self.roster.ranks(), self.exchange.busy_nodes
        return sorted(ranks[node] for node in self.exchange.grid.get_node_ids() if node in ranks and node not in busy)

    def _train_message(self, rank: int, config: ConfigRecord) -> Message:
        instructions = self.orders.instructions(rank, self.seed, self.work, self.sgd, self.state)
        extra, settings = self.extra_arrays(rank)
        record = replace(instructions, **settings).to_config()  # type: ignore[arg-type]
        record.update(config)
        node_id = self.roster.node_ids[rank]
        message = train_message(node_id, rank, record, self.state, self.layout, self.plan, extra)
        self.downlink_bytes += num_bytes(message.content)
        return message

    def _record(self, received: Received, silent: list[int], mixing: Mixing) -> dict[str, Any]:
        in_vain = self.orders.budget_seconds + self.grace_seconds if silent else 0.0
        record = records.asked(self.orders, self.work)
        record |= records.times(received, mixing.models_sent, self.layout.num_bytes, self.roster, in_vain)
        record |= records.workers(received, silent, len(self.roster))
        record |= records.peer_traffic(mixing.graph, mixing.models_sent, self.layout.num_bytes)
        record |= {
            "virtual_seconds": self.state.virtual_seconds + record["round_seconds"],
            "consensus_distance": consensus_distance(self.state.rows[:, : self.layout.num_parameters]),
            "uplink_bytes": sum(reply.num_bytes for reply in received.replies.values()),
            "downlink_bytes": self.downlink_bytes,
        }
        if mixing.leaders is not None:
            record |= {"leaders_best": mixing.leaders[0].tolist(), "leaders_degree": mixing.leaders[1].tolist()}
        return record
