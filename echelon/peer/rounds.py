"""The rounds of a run without a server: numbers gathered by all, the same matrix at each, rows from the neighbours."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from torch import Tensor

from echelon.core.mixing import Floats, Ints, Leaders, Mixing, Pull
from echelon.core.strategy import RoundNumbers, Strategy
from echelon.core.tally import Tally
from echelon.core.targets import RoundTargets
from echelon.peer.buffers import Buffers
from echelon.peer.exchange import Exchange, Rows
from echelon.peer.group import Group
from echelon.peer.vectors import Vectors


class Report(NamedTuple):
    """What a worker tells the others of its round.

    Attributes
    ----------
    samples : int
        Samples that it has processed.
    seconds : float
        Its computing time.
    loss : float
        Mean training loss; NaN if unknown.
    """

    samples: int
    seconds: float
    loss: float = float("nan")


@dataclass(frozen=True)
class Instructions(RoundTargets):
    """What the workers are to compute in a round, and what their steps are pulled towards.

    Attributes
    ----------
    anchors : dict of int to tensor, shape (P,)
        Of the workers of this process; empty for none.
    anchor_strengths : float64 ndarray, shape (N,)
        How strongly; empty for none.
    directions : dict of int to tensor, shape (P,)
        What is added to the gradients of the workers of this process, mu m of ``momentum_mixing=quasi_global``; empty
        for none.
    corrections : dict of int to tensor, shape (P,)
        What is added to them with ``correction=tracking``, and is part of a corrected gradient; empty for none.
    """

    anchors: Rows = field(default_factory=dict)
    anchor_strengths: Floats = field(default_factory=lambda: np.zeros(0))
    directions: Rows = field(default_factory=dict)
    corrections: Rows = field(default_factory=dict)


class Kept(NamedTuple):
    """What a round changes of :class:`Rounds`; the vectors are those of one process, by rank and name."""

    tally: Tally
    leaders: Leaders | None
    mixing: Mixing | None
    drift: float
    vectors: dict[int, dict[str, Tensor]]


class Rounds:
    """A strategy at work in one of the processes of a run; each process makes the same calls.

    Parameters
    ----------
    strategy : Strategy
        Not needed elsewhere: it is laid out here.
    group : Group
        Who holds which worker.
    shard_sizes : int64 ndarray, shape (N,)
        Samples that each worker holds; 0 where that is unknown.
    arrays : callable
        (rank, row) -> the model as Flower's arrays, for the strategy's ``held_out_loss``.
    batch_ratios : float64 ndarray, shape (N,), optional
        Capability ratios that batches are proportional to; equal batches by default.
    measures_drift : bool
        Whether :attr:`drift` is measured, at an all-reduce in rounds that move the mean model.

    Attributes
    ----------
    tally : Tally
        The workers' numbers so far, the same in every process.
    leaders : Leaders or None
        Of the previous round.
    mixing : Mixing or None
        How the models of the previous round were combined.
    drift : float
        The distance by which that moved the mean model; 0 unless it is measured.
    vectors : Vectors
        What is as large as a model and kept of each worker of this process.
    buffers : Buffers
        Where the combined models are taken from.

    Raises
    ------
    ValueError
        If the strategy needs a server, or cannot work with these workers.
    """

    def __init__(
        self,
        strategy: Strategy,
        group: Group,
        shard_sizes: Ints,
        arrays: Callable[[int, Tensor], Any],
        batch_ratios: Floats | None = None,
        measures_drift: bool = False,
    ) -> None:
        if strategy.needs_server:
            raise ValueError(f"{type(strategy).__name__} cannot run without a server: {strategy.needs_server}")
        strategy.lay_out(group.num_workers, shard_sizes)
        self.strategy, self.group = strategy, group
        self.tally = Tally.none(group.num_workers)
        self.leaders: Leaders | None = None
        self.mixing: Mixing | None = None
        self.drift, self._measures_drift = 0.0, measures_drift
        self.vectors = Vectors(strategy, group)
        self._shard_sizes, self._batch_ratios = shard_sizes, batch_ratios
        self._arrays = arrays
        self.buffers = Buffers()

    def snapshot(self) -> "Kept":
        """Return what a round changes, to go back to by :meth:`restore`."""
        vectors = {rank: self.vectors.of(rank) for rank in self.group.local}
        return Kept(deepcopy(self.tally), self.leaders, self.mixing, self.drift, vectors)

    def restore(self, kept: "Kept") -> None:
        """Go back to an earlier state."""
        self.tally, self.leaders, self.mixing, self.drift = deepcopy(kept.tally), kept.leaders, kept.mixing, kept.drift
        for rank, vectors in kept.vectors.items():
            self.vectors.put(rank, vectors)

    def begin(self, rows: Mapping[int, Tensor]) -> Instructions:
        """Return the instructions of the next round, given the models at its start by rank."""
        there, tally = np.flatnonzero(self.group.there), self.tally
        begun = Instructions.make(tally.round + 1, self.strategy.work, tally, self._batch_ratios, there.tolist())
        begun = replace(begun, directions=self.vectors.directions(rows), corrections=self.vectors.corrections(rows))
        pull = self._pull(begun.round)
        if pull is None:
            return begun
        exchange = Exchange(rows, self.group, self.buffers)
        anchors = exchange.combine(pull.weights)
        exchange.close()
        return replace(begun, anchors=anchors, anchor_strengths=pull.strengths)

    def _pull(self, round_number: int) -> Pull | None:
        """Return the force of a round; nobody is pulled towards a leader that does not take part any more."""
        pull = None if self.leaders is None else self.strategy.pull(round_number, self.leaders)
        there = self.group.there
        if pull is None or there.all():
            return pull
        weights = np.where(np.logical_and.outer(there, there), pull.weights, 0.0)
        total = weights.sum(axis=1)
        weights[total > 0] /= total[total > 0, np.newaxis]
        return Pull(weights, pull.strengths * total)

    def finish(
        self,
        begun: Instructions,
        rows: Mapping[int, Tensor],
        trained: Mapping[int, Tensor],
        reports: Mapping[int, Report],
        together: Sequence[Mapping[int, Tensor]] = (),
        lengths: Mapping[int, float | None] | None = None,
        gradients: Mapping[int, Tensor] | None = None,
        remembered: Mapping[int, Tensor] | None = None,
    ) -> tuple[Rows, list[Rows], RoundNumbers]:
        """Combine the models of a round.

        Parameters
        ----------
        begun : Instructions
            Of the round.
        rows : mapping of int to float32 tensor, shape (P,)
            Models of the workers of this process at the start of the round, by rank.
        trained : mapping of int to float32 tensor, shape (P,)
            Their models after the local steps; a worker without one is absent.
        reports : mapping of int to Report
            Of the workers in ``trained``.
        together : sequence of mapping of int to float32 tensor
            What is averaged as the models are with ``momentum_mixing=mixed``; otherwise returned as it is.
        lengths : mapping of int to float or None, optional
            F lr of the workers of this process, for ``momentum_mixing=quasi_global``; with None a worker keeps its
            buffer. By default that of the strategy's ``work`` and ``sgd``.
        gradients : mapping of int to float32 tensor, shape (P,), optional
            Mean corrected gradients of the workers in ``trained`` that have processed samples, needed for
            ``correction=tracking``; one that is missing counts as zeros.
        remembered : mapping of int to float32 tensor, shape (P,), optional
            Models of absent workers after steps by their remembered gradients; these workers count by what they hold.

        Returns
        -------
        rows, together, numbers : dict, list of dict, RoundNumbers
            The combined models, what was averaged with them, and the numbers of the round, the same in every process.
        """
        remembered = remembered or {}
        numbers = self._numbers(begun, trained, reports, remembered)
        scaled = self._scaled(numbers, rows, trained) | dict(remembered)
        host = _Host(self, rows, scaled)
        mixing = self.strategy.mixing(replace(numbers, host=host))
        self.mixing, self.leaders = mixing, mixing.leaders or self.leaders
        self.tally.round = begun.round
        if self._measures_drift:
            self.drift = host.mean_drift(mixing)
        combined = host.combine(mixing)
        host.close()
        default = self.strategy.work.local_steps * self.strategy.sgd.at(begun.round)
        self.vectors.follow(rows, combined, lengths or dict.fromkeys(scaled, default))
        self.vectors.track(rows, gradients or {}, mixing, numbers)
        if self.strategy.momentum_mixing == "mixed":
            together = [Exchange(values, self.group).combine(mixing.matrix) for values in together]
        return combined, [dict(values) for values in together], numbers

    def held_out_losses(self, rows: Mapping[int, Tensor]) -> dict[int, float]:
        """Return the loss of models on the strategy's held-out batch.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.strategy.held_out_loss is None:
            raise ValueError("held_out_loss must be a function of a model's arrays; got none")
        return {rank: self.strategy.held_out_loss(self._arrays(rank, row)) for rank, row in rows.items()}

    def _numbers(
        self,
        begun: Instructions,
        trained: Mapping[int, Tensor],
        reports: Mapping[int, Report],
        remembered: Mapping[int, Tensor],
    ) -> RoundNumbers:
        """Gather what the workers report, and note it in the tally."""
        tally, table = self.tally, np.zeros((self.group.num_workers, 5))
        losses = {rank: report.loss for rank, report in reports.items()}
        if self.strategy.losses == "held_out":
            found = self.held_out_losses(trained)
            losses = {rank: loss if np.isfinite(loss) else np.inf for rank, loss in found.items()}
        for rank in trained:
            table[rank] = 1.0, reports[rank].samples, reports[rank].seconds, losses[rank], 1.0
        for rank in remembered:
            table[rank, 4] = 1.0
        there, samples, seconds, loss, weighs = self.group.gather(table).T
        present, counts = np.flatnonzero(there), samples.astype(np.int64)
        for rank in present.tolist():
            tally.note(
                rank,
                samples=int(counts[rank]),
                seconds=float(seconds[rank]),
                target_samples=int(begun.target_samples[rank]),
                shard_size=int(self._shard_sizes[rank]),
                work=self.strategy.work,
            )
        measured = np.where((there > 0) & ((samples > 0) | (self.strategy.losses == "held_out")), loss, np.nan)
        tally.losses = self.strategy.update_signal(tally.losses, measured)
        return RoundNumbers(
            round=begun.round,
            present=present,
            losses=tally.losses,
            samples=counts,
            mean_samples=tally.mean_samples,
            shard_sizes=np.where(weighs > 0, self._shard_sizes, 0),
            batch_sizes=begun.batch_sizes,
        )

    def _scaled(self, numbers: RoundNumbers, rows: Mapping[int, Tensor], trained: Mapping[int, Tensor]) -> Rows:
        """Return the new models with the local updates scaled, x + k (y - x)."""
        factors = dict(zip(numbers.present.tolist(), self.strategy.update_scales(numbers).tolist(), strict=True))
        return {
            rank: row if factors[rank] == 1.0 else rows[rank].lerp(row, factors[rank]) for rank, row in trained.items()
        }


class _Host:
    """The models of a round before they are combined; a :class:`echelon.core.strategy.Host`."""

    def __init__(self, rounds: Rounds, rows: Mapping[int, Tensor], updated: Rows) -> None:
        self._rounds, self._rows, self._updated = rounds, rows, updated
        self._adapts_first = rounds.strategy.order == "adapt_then_combine"
        self._exchange = Exchange({**rows, **updated} if self._adapts_first else rows, rounds.group, rounds.buffers)

    def distances(self, graph: nx.Graph) -> Floats:
        """Return the distances of the models that are to be mixed along the edges of a graph, (N, N); 0 elsewhere."""
        return self._exchange.distances(graph)

    def mixed_losses(self, mixing: Mixing) -> Floats:
        """Return the held-out loss of each present worker's mixed model, (N,); NaN for absent workers."""
        table = np.zeros((self._rounds.group.num_workers, 2))
        mixed = self.combine(mixing)
        losses = self._rounds.held_out_losses({rank: mixed[rank] for rank in self._updated})
        for rank, loss in losses.items():
            table[rank] = 1.0, loss
        there, found = self._rounds.group.gather(table).T
        return np.where(there > 0, found, np.nan)

    def mean_drift(self, mixing: Mixing) -> float:
        """Return the distance by which mixing will move the mean model."""
        return self._exchange.mean_drift(mixing.matrix)

    def close(self) -> None:
        """Give up the models of the other workers."""
        self._exchange.close()

    def combine(self, mixing: Mixing) -> Rows:
        """Return the mixed models of the workers of this process."""
        mixed = self._exchange.combine(mixing.matrix)
        if self._adapts_first:
            return mixed
        steps = {rank: row - self._rows[rank] for rank, row in self._updated.items()}
        return {rank: row + steps[rank] if rank in steps else row for rank, row in mixed.items()}
