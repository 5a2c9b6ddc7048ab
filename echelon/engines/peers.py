"""A run without a server in one of its processes: workers train, models mix, all know the round's numbers."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from echelon.core.layout import Row
from echelon.core.partition import Partition
from echelon.core.strategy import Strategy
from echelon.engines import measured
from echelon.engines.site import Answer, Site
from echelon.peer.finish import Finish
from echelon.peer.group import Group
from echelon.peer.rounds import Instructions, Report, Rounds
from echelon.protocol.messages import TrainInstructions
from echelon.server import vectors
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

    Parameters
    ----------
    parts : Parts
        Of the run.
    group : Group
        Who holds which worker. Under the wall clock each process holds one: a second one would begin when the first
        has finished.

    Attributes
    ----------
    sites : dict of int to Site
        The workers of this process, by rank.

    Raises
    ------
    ValueError
        If the strategy needs a server, or cannot work with these workers.
    """

    def __init__(self, parts: Parts, group: Group) -> None:
        strategy = parts.strategy
        self._parts, self._group = parts, group
        self._finish = Finish.of(strategy.work, group.num_workers, group.store) if parts.wall_clock else None
        answer = parts.make_answer(self._is_over)
        self.sites = {rank: Site(rank, group.num_workers, answer) for rank in group.local}
        handshake = TrainInstructions(
            seed=strategy.seed, minibatch_size=strategy.work.minibatch_size, wall_clock=parts.wall_clock
        )
        entries = {rank: site.describe(handshake, parts.arrays) for rank, site in self.sites.items()}
        own = Roster(list(entries.values()), [])
        self._layout, arrays = lay_out_model(parts.arrays, own)
        strategy.check_optimizer(own.parts.optimizer if own.parts else "sgd")
        vectors.check(strategy, self._layout)
        self._roster = measured.roster(entries, group)
        sizes = self._roster.shard_sizes if parts.partition.sizes is None else parts.partition.sizes
        self._rounds = Rounds(strategy, group, sizes, self._model, parts.partition.batch_ratios, measures_drift=True)
        self._rounds.tally.seconds_per_minibatch[:] = self._roster.seconds_per_minibatch
        has_momentum = strategy.worker_sgd.momentum and self._layout.has_momentum
        for site in self.sites.values():
            num_momentum = self._layout.num_parameters if has_momentum else 0
            site.begin(self._layout, self._layout.row(arrays), self._layout.exact(arrays), num_momentum)
        self._virtual_seconds = self._wall_seconds = 0.0

    def run(self, say: Callable[[Record], None]) -> None:
        """Do all rounds; the first process says the record of each, as in ``metrics.jsonl``."""
        for _ in range(self._parts.evaluated.num_rounds):
            record = self.round()
            if self._group.process == 0:
                say(record)

    def round(self) -> Record:
        """Do a round, with its evaluation if one is due, and return its record."""
        began, rounds, mixed = time.monotonic(), self._rounds, self._layout.mixed
        rows = {rank: torch.from_numpy(site.row[mixed]) for rank, site in self.sites.items()}
        begun = rounds.begin(rows)
        if self._finish is not None:
            begun = replace(begun, budget_seconds=math.inf)  # the event ends the round
        replies = {rank: self._trained(site, begun) for rank, site in self.sites.items()}
        gradients = self._gradients(begun, replies)
        for rank, reply in replies.items():
            self.sites[rank].note(reply)
        there = {rank: reply for rank, reply in replies.items() if reply.row is not None}
        combined, states, _ = rounds.finish(
            begun,
            rows,
            {rank: torch.from_numpy(reply.row[mixed]) for rank, reply in there.items() if reply.row is not None},
            {rank: Report(r.report.samples, r.report.seconds, r.report.train_loss) for rank, r in there.items()},
            self._states(),
            gradients=gradients,
        )
        if self._finish is not None and self._group.process == 0:
            self._finish.forget(begun.round)  # all have reported, so nobody asks any more
        for rank, model in combined.items():
            self.sites[rank].row[mixed] = model.numpy()
        rounds.buffers.give(list({id(model): model for model in combined.values()}.values()))
        for vector, averaged in zip(self._states(), states, strict=True):
            for rank, value in averaged.items():
                vector[rank].copy_(value)
        record = self._record(begun, replies)
        evaluated = self._parts.evaluated
        if begun.round % evaluated.eval_every == 0 or begun.round == evaluated.num_rounds:
            record |= self._evaluate()
        self._wall_seconds += time.monotonic() - began
        return record | {"wall_seconds": self._wall_seconds}

    def _trained(self, site: Site, begun: Instructions) -> Reply:
        """Let a worker train; tell the others if it has finished."""
        strategy = self._parts.strategy
        made = worker_instructions(
            begun, site.rank, strategy.seed, strategy.work, strategy.worker_sgd, self._rounds.tally
        )
        made = replace(
            made,
            keeps_optimizer=bool(self._layout.optimizer_size),
            run_seconds=self._virtual_seconds,
            wall_clock=self._parts.wall_clock,
        )
        try:
            reply = site.train(made, begun, self._parts.partition)
        except ValueError as error:
            raise ValueError(f"worker {site.rank}: {error}") from error
        if self._finish is not None and reply.report.samples >= made.target_samples:
            self._finish.note(begun.round)
        return reply

    def _gradients(self, begun: Instructions, replies: dict[int, Reply]) -> dict[int, Tensor]:
        """Return the mean corrected gradients of the workers that have finished something; none without tracking."""
        strategy, mixed, found = self._parts.strategy, self._layout.mixed, {}
        for rank, reply in replies.items():
            if strategy.correction != "tracking" or reply.row is None or not reply.report.samples:
                continue
            site = self.sites[rank]
            momentum = None if site.momentum is None else site.momentum[mixed]
            direction = begun.directions[rank].numpy() if begun.directions else None
            gradient = vectors.gradient_of(strategy, rank, reply, begun, site.row[mixed], momentum, direction)
            found[rank] = torch.from_numpy(gradient)
        return found

    def _states(self) -> list[dict[int, Tensor]]:
        """Return, by rank, what is averaged of the optimisers' state as the models are: views of it."""
        if self._parts.strategy.momentum_mixing != "mixed":
            return []
        found: list[dict[int, Tensor]] = []
        momenta = {rank: site.momentum for rank, site in self.sites.items() if site.momentum is not None}
        if momenta:
            found.append({rank: torch.from_numpy(momentum[self._layout.mixed]) for rank, momentum in momenta.items()})
        if self._layout.optimizer_size:
            for site in self.sites.values():
                np.nan_to_num(site.optimizer, copy=False)  # of workers that were never present, and weigh nothing
            found.append({rank: torch.from_numpy(site.optimizer) for rank, site in self.sites.items()})
        return found

    def _record(self, begun: Instructions, replies: dict[int, Reply]) -> Record:
        mixing, group = self._rounds.mixing, self._group
        assert mixing is not None
        deviations = measured.squared_deviations(mixing, self._mixed_rows(), group)
        received, distance = measured.received(replies, deviations, group)
        record = shared_fields(
            begun, received, [], mixing, self._layout.num_bytes, self._roster, self._parts.strategy.work
        )
        self._virtual_seconds += record["round_seconds"]
        return record | {
            "virtual_seconds": self._virtual_seconds,
            "consensus_distance": distance,
            "mean_drift": self._rounds.drift,
            "uplink_bytes": 0,
            "downlink_bytes": 0,
            "grace_seconds": None,
            "empty_attempts": 0,
        }

    def _evaluate(self) -> Record:
        """Evaluate the consensus model in the first process, and workers' models where they are."""
        mixing, layout, parts = self._rounds.mixing, self._layout, self._parts
        assert mixing is not None
        models = {rank: (site.row, site.exact) for rank, site in self.sites.items()}
        return measured.evaluated(
            models, mixing, layout, self._rounds.tally, parts.evaluate, parts.evaluated, self._group
        )

    def _mixed_rows(self) -> dict[int, Tensor]:
        return {rank: torch.from_numpy(site.row[self._layout.mixed]) for rank, site in self.sites.items()}

    def _model(self, rank: int, row: Tensor) -> ArrayRecord:
        """Return a worker's model with other parameters as Flower's arrays."""
        site = self.sites[rank]
        whole: Row = site.row.copy()
        whole[self._layout.mixed] = row.numpy()
        return self._layout.arrays(whole, site.exact)

    def _is_over(self) -> bool:
        return self._finish is not None and self._finish.is_over(self._rounds.tally.round + 1)
