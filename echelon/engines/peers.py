"""A run without a server in one of its processes: workers train, models mix, all know the round's numbers."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord
from torch import Tensor

from echelon.core.layout import Bytes, Row
from echelon.core.partition import Partition
from echelon.core.strategy import Strategy
from echelon.engines import measured
from echelon.engines.site import Answer, Held, Site
from echelon.peer.finish import Finish
from echelon.peer.group import Group
from echelon.peer.rounds import Instructions, Kept, Report, Rounds
from echelon.protocol.messages import TrainInstructions
from echelon.server import remembered, vectors
from echelon.server.evaluated import EvaluatedWorkers
from echelon.server.evaluation import EvaluateFn
from echelon.server.instructions import worker_instructions
from echelon.server.metrics import shared_fields
from echelon.server.model import lay_out_model
from echelon.server.nodes import Roster
from echelon.server.replies import Reply

Record = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """What a run is made of; the same in every process.

    Attributes
    ----------
    strategy : Strategy
        How models are combined.
    make_answer : callable
        (is_over) -> the client's answers, see :class:`echelon.engines.site.Site`; ``is_over`` tells a client under the
        wall clock that an event has ended the round.
    arrays : ArrayRecord
        The initial model.
    partition : Partition
        Which samples each worker holds.
    evaluate : callable
        (round, arrays) -> metrics with ``accuracy`` and ``loss``.
    evaluated : EvaluatedWorkers
        Whose models are evaluated, beside the consensus model; it also knows how often, and the number of rounds.
    wall_clock : bool
        Whether rounds are measured in real time; by default clients simulate devices.
    """

    strategy: Strategy
    make_answer: Callable[[Callable[[], bool]], Answer]
    arrays: ArrayRecord
    partition: Partition
    evaluate: EvaluateFn
    evaluated: EvaluatedWorkers
    wall_clock: bool = False


class PeerRun:
    """The workers of one process; each process makes the same calls.

    A round changes nothing until :meth:`keep` is called; :meth:`undo` goes back to its start, so that it can be
    repeated without the workers of a process that was lost. Their local steps are not repeated.

    Parameters
    ----------
    parts : Parts
        Of the run.
    group : Group
        Who holds which worker. Under the wall clock each process holds one: a second one would begin when the first
        has finished.
    during : callable, optional
        Returns a context for what may take long: local steps and evaluations.

    Attributes
    ----------
    sites : dict of int to Site
        The workers of this process, by rank.
    rounds : Rounds
        What all processes know.
    layout : ArrayLayout
        Of the models.
    virtual_seconds, wall_seconds : float
        The run's time axes.

    Raises
    ------
    ValueError
        If the strategy needs a server, or cannot work with these workers.
    """

    def __init__(
        self, parts: Parts, group: Group, during: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        strategy = parts.strategy
        self._parts, self.group, self._during = parts, group, during
        self._finish: Finish | None = None
        answer = parts.make_answer(self._is_over)
        self.sites = {rank: Site(rank, group.num_workers, answer) for rank in group.local}
        handshake = TrainInstructions(
            seed=strategy.seed, minibatch_size=strategy.work.minibatch_size, wall_clock=parts.wall_clock
        )
        entries = {rank: site.describe(handshake, parts.arrays) for rank, site in self.sites.items()}
        own = Roster(list(entries.values()), [])
        self.layout, arrays = lay_out_model(parts.arrays, own)
        strategy.check_optimizer(self.layout.optimizer, self.layout.optimizer_state)
        self._roster = measured.roster(group.introduce(measured.described(entries)), group)
        sizes = self._roster.shard_sizes if parts.partition.sizes is None else parts.partition.sizes
        self.rounds = Rounds(strategy, group, sizes, self._model, parts.partition.batch_ratios, measures_drift=True)
        self.rounds.tally.seconds_per_minibatch[:] = self._roster.seconds_per_minibatch
        has_momentum = bool(strategy.worker_sgd.momentum) and self.layout.has_momentum
        held = Held.initial(self.layout, self.layout.row(arrays), self.layout.exact(arrays), has_momentum)
        for site in self.sites.values():
            site.begin(self.layout, held)
        self.virtual_seconds = self.wall_seconds = 0.0
        self._began = time.monotonic()
        self._before: Kept | None = None
        self._trained: tuple[Instructions, dict[int, Reply]] | None = None
        self._next: dict[int, Held] = {}
        self._record: Record = {}

    def round(self) -> Record:
        """Do a round and keep it; return its record."""
        record = self.attempt()
        self.keep()
        return record

    def attempt(self) -> Record:
        """Do a round, with its evaluation if one is due, and return its record, as in ``metrics.jsonl``."""
        begun, replies = self._trained = self._trained or self._train()
        self._before = self.rounds.snapshot()
        self._combine(begun, replies)
        record = self._measured(begun, replies)
        evaluated = self._parts.evaluated
        if begun.round % evaluated.eval_every == 0 or begun.round == evaluated.num_rounds:
            record |= self.evaluate()
        self._record = record | {"wall_seconds": self.wall_seconds + time.monotonic() - self._began}
        return self._record

    def keep(self) -> None:
        """Keep what the last attempt has brought; do nothing if there was none."""
        if not self._next:
            return
        old = [self.sites[rank].held.row for rank in self._next]
        for rank, held in self._next.items():
            self.sites[rank].held = held
        if self.layout.size == self.layout.num_mixed:  # nobody needs them any more
            self.rounds.buffers.give(list({id(row): torch.from_numpy(row) for row in old}.values()))
        if self._finish is not None and self.group.is_first:
            self._finish.forget(self.rounds.tally.round)  # all have reported, so nobody asks any more
        self.virtual_seconds, self.wall_seconds = self._record["virtual_seconds"], self._record["wall_seconds"]
        self._before = self._trained = None
        self._next = {}

    def undo(self) -> None:
        """Go back to the start of the round, or to the end of its local steps if they were finished."""
        if self._before is not None:
            self.rounds.restore(self._before)
        self._before, self._next = None, {}

    def evaluate(self) -> Record:
        """Evaluate the consensus model in the first process, and workers' models where they are."""

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            with self._during():
                return self._parts.evaluate(server_round, arrays)

        rounds, chosen = self.rounds, self._parts.evaluated
        return measured.evaluated(self.models(), rounds.mixing, self.layout, rounds.tally, evaluate, chosen, self.group)

    def models(self) -> dict[int, tuple[Row, Bytes]]:
        """Return the models of this process's workers, by rank, as of the latest attempt."""
        held = {rank: self._next.get(rank, site.held) for rank, site in self.sites.items()}
        return {rank: (found.row, found.exact) for rank, found in held.items()}

    def own_models(self) -> dict[int, ArrayRecord]:
        """Return the models of this process's workers as Flower's arrays, by rank."""
        return {rank: self.layout.arrays(*model) for rank, model in self.models().items()}

    def consensus(self) -> ArrayRecord:
        """Return the mean of all models; every process must call it."""
        return self.layout.arrays(*measured.consensus(self.models(), self.layout, self.group))

    def model(self, rank: int) -> ArrayRecord:
        """Return one worker's model, wherever it is; every process must call it."""
        return self.layout.arrays(*measured.model_of(rank, self.models(), self.layout, self.group))

    def _train(self) -> tuple[Instructions, dict[int, Reply]]:
        """Let the workers do their local steps; return the round's instructions and what came of them."""
        self._began = time.monotonic()
        if self._parts.wall_clock:
            self._finish = Finish.of(self._parts.strategy.work, int(self.group.there.sum()), self.group.store)
        begun = self.rounds.begin(self._rows())
        if self._finish is not None:
            begun = replace(begun, budget_seconds=math.inf)  # the event ends the round
        with self._during():
            return begun, {rank: self._steps(site, begun) for rank, site in self.sites.items()}

    def _steps(self, site: Site, begun: Instructions) -> Reply:
        """Let a worker do its local steps; tell the others if it has finished."""
        strategy = self._parts.strategy
        made = worker_instructions(
            begun, site.rank, strategy.seed, strategy.work, strategy.worker_sgd, self.rounds.tally
        )
        made = replace(
            made,
            keeps_optimizer=bool(self.layout.optimizer_size),
            run_seconds=self.virtual_seconds,
            wall_clock=self._parts.wall_clock,
            remembers=strategy.remembers,
        )
        memory = self.rounds.vectors.memory.get(site.rank)
        try:
            reply = site.train(made, begun, self._parts.partition, memory)
        except ValueError as error:
            raise ValueError(f"worker {site.rank}: {error}") from error
        if self._finish is not None and reply.report.samples >= made.target_samples:
            self._finish.note(begun.round)
        return reply

    def _combine(self, begun: Instructions, replies: dict[int, Reply]) -> None:
        """Combine the models of a round, and what goes with them, into those of the next one."""
        mixed = self.layout.mixed
        after = {rank: self.sites[rank].after(reply) for rank, reply in replies.items()}
        there = {rank: reply for rank, reply in replies.items() if reply.row is not None}
        stepped = self._remember(begun, replies)
        after |= stepped
        combined, averaged, _ = self.rounds.finish(
            begun,
            self._rows(),
            {rank: torch.from_numpy(reply.row[mixed]) for rank, reply in there.items() if reply.row is not None},
            {rank: Report(r.report.samples, r.report.seconds, r.report.train_loss) for rank, r in there.items()},
            self._together(after),
            gradients=self._gradients(begun, replies),
            remembered={rank: torch.from_numpy(held.row[mixed]) for rank, held in stepped.items()},
        )
        self._next = {rank: self._with_row(held, combined[rank]) for rank, held in after.items()}
        for values in averaged:
            for rank, value in values.items():
                self._next[rank] = self._with_state(self._next[rank], value.numpy())
        if self.layout.size > self.layout.num_mixed:
            self.rounds.buffers.give(list({id(model): model for model in combined.values()}.values()))

    def _with_row(self, held: Held, parameters: Tensor) -> Held:
        """Return what a worker holds with other mixed parameters."""
        row: Row = parameters.numpy()
        if self.layout.size > self.layout.num_mixed:
            row = held.row.copy()
            row[self.layout.mixed] = parameters.numpy()
        return replace(held, row=row)

    def _with_state(self, held: Held, value: Row) -> Held:
        """Return what a worker holds with an averaged state of its optimiser, momentum or another's."""
        if held.momentum is None:
            return replace(held, optimizer=value)
        momentum = held.momentum.copy()
        momentum[self.layout.mixed] = value
        return replace(held, momentum=momentum)

    def _gradients(self, begun: Instructions, replies: dict[int, Reply]) -> dict[int, Tensor]:
        """Return the mean corrected gradients of the workers that have finished something; none without tracking."""
        strategy, mixed, found = self._parts.strategy, self.layout.mixed, {}
        for rank, reply in replies.items():
            if strategy.correction != "tracking" or reply.row is None or not reply.report.samples:
                continue
            held = self.sites[rank].held
            momentum = None if held.momentum is None else held.momentum[mixed]
            direction = begun.directions[rank].numpy() if begun.directions else None
            gradient = vectors.gradient_of(strategy, rank, reply, begun, held.row[mixed], momentum, direction)
            found[rank] = torch.from_numpy(gradient)
        return found

    def _remember(self, begun: Instructions, replies: dict[int, Reply]) -> dict[int, Held]:
        """Set the remembered gradients; return what absent workers hold after steps by theirs, where these count."""
        strategy, memory, size = self._parts.strategy, self.rounds.vectors.memory, self.layout.num_parameters
        if not strategy.remembers:
            return {}
        there = np.zeros((self.group.num_workers, 1))
        there[[rank for rank, reply in replies.items() if reply.row is not None]] = 1.0
        counts_absent = strategy.counts_absent and self.group.gather(there).any()
        stepped: dict[int, Held] = {}
        for rank, reply in replies.items():
            held = self.sites[rank].held
            direction = self._padded(begun.directions[rank]) if begun.directions else None
            start = held.row[:size], held.momentum, direction
            if reply.row is not None and reply.report.samples:
                memory[rank] = torch.from_numpy(remembered.mean_used(strategy, begun.round, reply, *start))
            elif reply.row is None and counts_absent and rank in memory:
                row = held.row.copy()
                row[:size], velocity = remembered.steps(strategy, begun.round, memory[rank].numpy(), *start)
                stepped[rank] = replace(held, row=row, momentum=None if held.momentum is None else velocity)
        return stepped

    def _padded(self, direction: Tensor) -> Row:
        """Return a vector over all parameters of one over those that are mixed."""
        whole: Row = np.zeros(self.layout.num_parameters, dtype=np.float32)
        whole[self.layout.mixed] = direction.numpy()
        return whole

    def _together(self, after: dict[int, Held]) -> list[dict[int, Tensor]]:
        """Return, by rank, what is averaged of the optimisers' state as the models are: momentum, or another's."""
        if self._parts.strategy.momentum_mixing != "mixed":
            return []
        momenta = {rank: held.momentum for rank, held in after.items() if held.momentum is not None}
        if momenta:
            return [{rank: torch.from_numpy(momentum[self.layout.mixed]) for rank, momentum in momenta.items()}]
        if not self.layout.optimizer_size:
            return []
        # NaN is the state of workers that were never present, and weigh nothing.
        return [{rank: torch.from_numpy(np.nan_to_num(held.optimizer)) for rank, held in after.items()}]

    def _measured(self, begun: Instructions, replies: dict[int, Reply]) -> Record:
        mixing, group = self.rounds.mixing, self.group
        assert mixing is not None
        rows = {rank: torch.from_numpy(row[self.layout.mixed]) for rank, (row, _) in self.models().items()}
        received, distance = measured.received(replies, measured.squared_deviations(mixing, rows, group), group)
        record = shared_fields(
            begun, received, [], mixing, self.layout.num_bytes, self._roster, self._parts.strategy.work
        )
        return record | {
            "virtual_seconds": self.virtual_seconds + record["round_seconds"],
            "consensus_distance": distance,
            "mean_drift": self.rounds.drift,
            "uplink_bytes": 0,
            "downlink_bytes": 0,
            "grace_seconds": None,
            "empty_attempts": 0,
        }

    def _rows(self) -> dict[int, Tensor]:
        """Return the mixed parameters at the start of the round."""
        return {rank: torch.from_numpy(site.held.row[self.layout.mixed]) for rank, site in self.sites.items()}

    def _model(self, rank: int, row: Tensor) -> ArrayRecord:
        """Return a worker's model with other parameters as Flower's arrays."""
        held = self.sites[rank].held
        whole: Row = held.row.copy()
        whole[self.layout.mixed] = row.numpy()
        return self.layout.arrays(whole, held.exact)

    def _is_over(self) -> bool:
        return self._finish is not None and self._finish.is_over(self.rounds.tally.round + 1)
