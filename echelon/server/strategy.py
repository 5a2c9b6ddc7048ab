"""The round loop on a Flower server, which all strategies share: one model row per worker, kept by the server.

A strategy gives the matrix (:meth:`echelon.core.strategy.Strategy.mixing`); what happens to messages and rows is here
and in the modules beside this one.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from logging import INFO
from typing import Any, Unpack

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerBase
from flwr.supercore import log

from echelon.algorithms.robust import assumed_liars
from echelon.core.layout import Row
from echelon.core.mixing import Mixing
from echelon.core.strategy import Strategy
from echelon.protocol.messages import TrainInstructions, num_bytes
from echelon.server import remembered, vectors
from echelon.server.evaluation import EvaluateFn, consensus_arrays, evaluate_message, evaluate_models, worker_metrics
from echelon.server.exchange import RunStoppedError
from echelon.server.instructions import Round, RoundInstructions, limited, train_message
from echelon.server.measurements import Measurements, measured_losses
from echelon.server.metrics import round_record
from echelon.server.model import check_averaged_optimizer
from echelon.server.nodes import Roster
from echelon.server.options import Options
from echelon.server.replies import AutoNormLimit
from echelon.server.rounds import AllWorkersFailedError, Rounds
from echelon.server.session import Session, open_session
from echelon.server.state import ServerState
from echelon.server.updates import Received, advance_state, round_numbers, scale_updates


class FlowerStrategy(Strategy, FlowerBase):
    """A Flower strategy that keeps one model row per worker.

    A subclass gives the matrix of a round in :meth:`mixing`. It may also replace one of the hooks ``round_complete``,
    ``filter_replies``, ``update_scales``, ``extra_payload``, ``aggregate`` and ``load_global``; none of them depends
    on another having been called first.

    Parameters
    ----------
    **options : Options
        See :class:`echelon.server.options.Options`.

    Attributes
    ----------
    has_robust_rule : bool
        Whether the class honours ``robust=True``; otherwise the option is an error.
    """

    has_robust_rule: bool = False

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__(
            work=options.get("work"),
            sgd=options.get("sgd"),
            seed=options.get("seed", 0),
            held_out_loss=options.get("held_out_loss"),
            momentum_mixing=options.get("momentum_mixing"),
            correction=options.get("correction", "none"),
        )
        self.eval_every = options.get("eval_every", 1)
        if self.eval_every < 1:
            raise ValueError(f"eval_every must be at least 1; got {self.eval_every}")
        self.grace_seconds = options.get("grace_seconds", float("inf"))
        self.adapt_grace = options.get("adapt_grace", True)
        self._rounds = Rounds(options.get("max_empty_rounds", 3))
        self.fold_late = options.get("fold_late", False)
        self.robust = options.get("robust", False)
        if self.robust and not self.has_robust_rule:
            name = type(self).__name__
            raise ValueError(f"strategy.robust must be false with {name}, which has no robust rule; got true")
        if self.robust and options.get("norm_limit") is None:
            options["norm_limit"] = AutoNormLimit()
        if options.get("norm_limit") is not None:
            self.needs_server = "strategy.max_update_norm and strategy.robust bound the updates that reach a server"
        if options.get("wire", "fp32") != "fp32":
            self.needs_server = "wire=bf16 shortens what travels between a server and its workers"
        vectors.check_options(self, options)
        self._options = options
        self._session: Session | None = None
        self._round: Round | None = None

    @property
    def session(self) -> Session:
        """The open run; RuntimeError before :meth:`start` or the first :meth:`configure_train`."""
        if self._session is None:
            raise RuntimeError(f"{type(self).__name__} has no run yet: call start")
        return self._session

    @property
    def state(self) -> ServerState:
        """State of the open run."""
        return self.session.state

    @property
    def roster(self) -> Roster:
        """Workers of the open run, by rank."""
        return self.session.roster

    # Hooks

    def round_complete(self, received: Received) -> bool:
        """Return whether the round can do without the replies that have not arrived yet."""
        return False

    def filter_replies(self, received: Received, recipients: list[int]) -> Received:
        """Return the replies that count; workers left out are named in its ``dropped``."""
        return received

    def extra_payload(self, rank: int, server_round: int) -> tuple[dict[str, ArrayRecord], dict[str, float]]:
        """Return what a worker gets beside its row: array records by key, and instructions that go with them."""
        return vectors.payload(self, rank, server_round, self.state, self.session.train_layout_of(rank))

    def aggregate(self, updated: Mapping[int, Row], mixing: Mixing) -> float:
        """Combine the workers' new rows; return the distance by which mixing moved the mean model."""
        return vectors.combine(self, updated, mixing, self.state, self.session.layout)

    def load_global(self, arrays: ArrayRecord) -> None:
        """Continue from the model that Flower's loop passes in: a wrapper (for differential privacy) may change it.

        Raises
        ------
        ValueError
            If it is not the consensus model: what a wrapper does to that one would not reach the workers' own.
        """
        session = self.session
        if not np.array_equal(session.layout.row(arrays), session.layout.row(self.consensus())):
            raise ValueError(
                f"{type(self).__name__} keeps a model per worker, so a strategy wrapper must not change the consensus "
                "model; only AllReduce goes with such a wrapper"
            )

    # Flower's interface

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a round's messages: to every free worker, its own row and its instructions."""
        if self._session is None:
            self.open(grid, arrays, config)
        elif arrays:
            self.load_global(arrays)
        session = self.session
        self._round = self._begin(server_round, session.free_ranks())
        return self._messages(self._round, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies, update and mix the rows; return the consensus model and the round's metrics.

        Raises
        ------
        AllWorkersFailedError
            If no reply is usable.
        """
        if self._round is None:
            raise RuntimeError("aggregate_train must follow configure_train")
        return self._round_result(self.finish_round(self._round, replies))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages that let every free worker evaluate its own model on its own data."""
        session = self._session or self.open(grid, arrays, config)
        nodes, state, layout, shards = session.roster.node_ids, session.state, session.layout_of, session.partition
        return (evaluate_message(nodes[r], r, config, state, layout(r), shards) for r in session.free_ranks())

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the workers' own accuracy and loss, averaged by the samples that they evaluated."""
        return self._evaluated(replies)[0]

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
        should_stop: Callable[[], bool] | None = None,
    ) -> Result:
        """Run ``num_rounds`` rounds in all, as Flower's ``Strategy.start`` but with a model per worker.

        Parameters
        ----------
        grid, initial_arrays, num_rounds, evaluate_fn
            As in Flower. ``evaluate_fn`` is called for the consensus model and for the workers' (``evaluate_workers``
            of the options); without it the workers evaluate their models on their own data.
        timeout : float
            Real seconds after which workers that have not replied are left out of a round.
        train_config, evaluate_config : ConfigRecord, optional
            Sent to the workers unchanged, beside the round's instructions.
        should_stop : callable, optional
            Called after every round, its evaluation and callbacks included; True ends the run (Flower 1.43).

        Returns
        -------
        Result
            With the consensus model; ``state`` has every worker's.

        Raises
        ------
        RosterError
            If the workers do not register, or none is connected for ``roster_timeout`` seconds.
        AllWorkersFailedError
            If ``max_empty_rounds`` attempts at a round bring no usable model.
        """
        state = self.open(grid, initial_arrays, train_config or ConfigRecord()).state
        train_config, evaluate_config = (limited(config, timeout) for config in (train_config, evaluate_config))
        self.session.exchange.in_rows = True
        self.summary()
        result = Result()
        with closing(self.session.exchange):
            if evaluate_fn is not None and state.round == 0:
                self._evaluate(0, result, evaluate_fn, evaluate_config, timeout)
            while state.round < num_rounds:
                began = time.monotonic()
                server_round = state.round + 1
                record = self._rounds.complete(
                    server_round,
                    partial(self.session.attendance.wait, self.ready, timeout),
                    partial(self.run_round, server_round, train_config, timeout),
                )
                result.train_metrics_clientapp[server_round] = MetricRecord({"train_loss": record["train_loss"]})
                if server_round % self.eval_every == 0 or server_round == num_rounds:
                    try:
                        record |= self._evaluate(server_round, result, evaluate_fn, evaluate_config, timeout)
                    except RunStoppedError:
                        self._report(record, began)  # the round is finished; its evaluation can be made up for
                        raise
                self._report(record, began)
                if should_stop is not None and should_stop():
                    break
        self._rounds.log_outcome()
        result.arrays = self.consensus()
        return result

    # Rounds

    def open(self, grid: Grid, arrays: ArrayRecord, config: ConfigRecord) -> Session:
        """Open the run: register the workers, lay out the graphs, make the initial state or continue from one."""
        sgd = self.worker_sgd
        self._session = session = open_session(
            grid, arrays, config, self._options, work=self.work, sgd=sgd, seed=self.seed, fold_late=self.fold_late
        )
        self.check_optimizer(session.layout.optimizer, session.layout.optimizer_state)
        if self.momentum_mixing == "mixed":
            check_averaged_optimizer(session.layout, bounded=self.robust or self._options.get("norm_limit") is None)
        self.lay_out(len(session.roster), session.shard_sizes)
        return session

    def ready(self) -> bool:
        """Return whether there is a worker to begin a round with."""
        return bool(self.session.free_ranks())

    def run_round(self, server_round: int, config: ConfigRecord, timeout: float) -> dict[str, Any]:
        """Do a round and return its record; what a round is differs for an asynchronous strategy."""
        session = self.session
        late = session.attendance.update()
        begun = self._begin(server_round, session.free_ranks())
        if self.fold_late:
            folded = {session.processor.sender(reply, MessageType.TRAIN) for reply in late}
            begun.recipients = [rank for rank in begun.recipients if rank not in folded]
        received = session.processor
        replies = session.exchange.run(
            self._messages(begun, config),
            min(timeout, begun.instructions.budget_seconds + begun.grace_seconds),
            lambda: self.round_complete(received.received),
            patience=timeout,
            heard=lambda: bool(received.received.replies or received.received.offline),
            grace=begun.grace_seconds,
        )
        arrived = session.latencies.watch(chain(late, replies), session.exchange, session.roster, begun.grace_seconds)
        return self.finish_round(begun, arrived)

    def finish_round(self, begun: Round, messages: Iterable[Message]) -> dict[str, Any]:
        """Do the server's half of a round and return its record; raises as :meth:`aggregate_train`."""
        session, state, instructions = self.session, self.state, begun.instructions
        received = session.processor.read(messages, instructions, state)
        if not received.replies and not received.offline:
            session.processor.remember(received.timed_out(begun.recipients), state)
            raise AllWorkersFailedError(received.failure(instructions.round))
        received = self.filter_replies(received, begun.recipients)
        timed_out = received.timed_out(begun.recipients)
        session.processor.remember(timed_out, state)
        gradients = vectors.mean_gradients(self, received.replies, instructions, state, session.layout)
        remembered.remember(self, received.replies, instructions, state, session.layout)
        advance_state(received.replies, instructions, state, self.work)
        held_out_loss = self.held_out_loss if self.losses == "held_out" else None
        measured = measured_losses(received.replies, session.layout, len(state.rows), held_out_loss)
        state.losses = self.update_signal(state.losses, measured)
        numbers = round_numbers(instructions, received.replies, state)
        factors = self.update_scales(numbers)
        updated = scale_updates(received.replies, factors, state, session.mixed, session.processor.norm_limit)
        absent = remembered.steps_of_absent(self, received.replies, instructions, state, session.layout)
        numbers, updated = remembered.counted(numbers, absent, session.shard_sizes), updated | absent
        host = Measurements(state, updated, session.layout, self.order, self.held_out_loss)
        mixing = self.mixing(replace(numbers, host=host))
        if mixing.leaders is not None:
            state.extras[vectors.LEADERS] = np.stack([mixing.leaders.best, mixing.leaders.degree]).astype(np.int64)
        drift = self.aggregate(updated, mixing)
        vectors.track(gradients, mixing, state, session.layout)
        record = round_record(begun, received, timed_out, mixing, session, self.work)
        record["mean_drift"] = drift
        state.round = instructions.round
        state.virtual_seconds = record["virtual_seconds"]
        return record

    def _report(self, record: dict[str, Any], began: float) -> None:
        """Complete the record of a round that began at a time on the monotonic clock; hand it to the callbacks."""
        self.state.wall_seconds += time.monotonic() - began
        record["wall_seconds"] = self.state.wall_seconds
        for callback in self._options.get("on_round", ()):
            callback(record, self.state)

    def consensus(self) -> ArrayRecord:
        """Return the mean of all workers' models; with ``robust``, their coordinate-wise trimmed mean."""
        return consensus_arrays(self.state, self.session.layout, robust=self.robust)

    def _round_result(self, record: Mapping[str, Any]) -> tuple[ArrayRecord, MetricRecord]:
        """Return what Flower gets of a finished round: the consensus model and the round's metrics."""
        return self.consensus(), MetricRecord({name: record[name] for name in ("train_loss", "consensus_distance")})

    def _begin(self, server_round: int, recipients: list[int]) -> Round:
        session = self.session
        spare, grace = assumed_liars(len(recipients)) if self.robust else 0, self.grace_seconds
        ratios = session.partition.batch_ratios
        made = RoundInstructions.make(server_round, self.work, session.state, ratios, recipients, spare)
        return Round(made, recipients, session.latencies.grace(grace) if self.adapt_grace else grace)

    def _messages(self, begun: Round, config: ConfigRecord) -> Iterable[Message]:
        """Yield the messages of a round, each made when it can be sent."""
        session = self.session
        for rank in begun.recipients:
            extra, settings = self.extra_payload(rank, begun.instructions.round)
            instructions = begun.instructions.instructions(rank, self.seed, self.work, self.worker_sgd, session.state)
            instructions = replace(instructions, **settings)  # type: ignore[arg-type]
            message = self._message(rank, instructions, session.state, config, extra)
            begun.downlink_bytes += num_bytes(message.content)
            yield message

    def _message(
        self,
        rank: int,
        instructions: TrainInstructions,
        state: ServerState,
        config: ConfigRecord,
        extra: dict[str, ArrayRecord],
    ) -> Message:
        session, record = self.session, ConfigRecord({**instructions.to_config(), **config})
        node_id = session.roster.node_ids[rank]
        return train_message(node_id, rank, record, state, session.train_layout_of(rank), session.partition, extra)

    def _evaluate(
        self,
        server_round: int,
        result: Result,
        evaluate_fn: EvaluateFn | None,
        config: ConfigRecord | None,
        timeout: float,
    ) -> dict[str, Any]:
        """Evaluate on the server, or else on the workers; note it in the result and return the record's fields."""
        session = self.session
        if evaluate_fn is not None:
            chosen = self._options.get("evaluate_workers")
            found, fields = evaluate_models(evaluate_fn, session.state, session.layout, self.robust, chosen)
            if found is not None:
                result.evaluate_metrics_serverapp[server_round] = found
            return fields
        messages = self.configure_evaluate(server_round, ArrayRecord(), config or ConfigRecord(), session.exchange.grid)
        found, fields = self._evaluated(session.exchange.run(messages, timeout))
        if found is not None:
            result.evaluate_metrics_clientapp[server_round] = found
        return fields

    def _evaluated(self, replies: Iterable[Message]) -> tuple[MetricRecord | None, dict[str, Any]]:
        senders = ((self.session.processor.sender(reply, MessageType.EVALUATE), reply) for reply in replies)
        by_rank = {rank: reply for rank, reply in senders if rank is not None}
        return worker_metrics(by_rank, len(self.roster))
