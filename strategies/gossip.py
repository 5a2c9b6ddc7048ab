"""What the decentralised strategies share: a schedule of graphs, and a rule that gives a mixing matrix for each."""

from dataclasses import replace
from logging import WARNING
from typing import Protocol, Unpack

import networkx as nx
import numpy as np
from flwr.supercore import log

from echelon.algorithms.mixing import restrict
from echelon.algorithms.one_peer import OnePeer
from echelon.algorithms.robust import clip, radii
from echelon.algorithms.schedules import Schedule, check_connected, static
from echelon.algorithms.topology import build
from echelon.core.mixing import Floats, Ints, Mixing
from echelon.core.strategy import Order, RoundNumbers
from echelon.server.options import Options
from echelon.server.strategy import FlowerStrategy


class Rule(Protocol):
    """The weights with which neighbours average: D-PSGD's or MATCHA's."""

    def lay_out(self, schedule: Schedule, seed: int, shard_sizes: Ints) -> None:
        """Prepare for a run on these graphs."""

    def at(self, round_index: int) -> tuple[Floats, nx.Graph]:
        """Return W for all workers and the active edges of a round (from 0)."""


class Gossip(FlowerStrategy):
    """Workers average with their neighbours in the round's graph.

    Parameters
    ----------
    topology : str, networkx.Graph or Schedule
        A name (see :func:`echelon.algorithms.topology.build`), one graph for all rounds, or a graph per round;
        ``one_peer`` is :class:`echelon.algorithms.one_peer.OnePeer`.
    rule : Rule
        Weights of the neighbours.
    order : {"adapt_then_combine", "combine_then_adapt"}
        X+ = W Y, or D-PSGD's literal X+ = W X + (Y - X), for one local step.
    allow_disconnected : bool
        Accept graphs that never connect all workers (only to show what that does).
    **options : Options
        See :class:`echelon.server.options.Options`.

    Attributes
    ----------
    schedule : Schedule
        Graphs of all rounds, once the workers are known.
    """

    schedule: Schedule
    has_robust_rule = True

    def __init__(
        self,
        topology: str | nx.Graph | Schedule,
        rule: Rule,
        *,
        order: Order = "adapt_then_combine",
        allow_disconnected: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        if order not in ("adapt_then_combine", "combine_then_adapt"):
            raise ValueError(f"strategy.order must be adapt_then_combine or combine_then_adapt; got {order}")
        if order == "combine_then_adapt" and self.work.local_steps > 1:
            raise ValueError(f"strategy.order=combine_then_adapt needs local_steps=1; got {self.work.local_steps}")
        self.topology = topology
        self.rule = rule
        self.order = order
        self.allow_disconnected = allow_disconnected

    @property
    def uses_momentum(self) -> str:
        """The setting, as key=value, that needs the workers' SGD and its momentum at the host; empty without one."""
        mixed = "strategy.momentum_mixing=mixed" if self.momentum_mixing == "mixed" else ""
        return super().uses_momentum or mixed

    def lay_out(self, num_workers: int, shard_sizes: Ints) -> None:
        """Lay out the graphs of all rounds.

        Raises
        ------
        ValueError
            If the graphs never connect all workers, or are for another number of workers.
        """
        super().lay_out(num_workers, shard_sizes)
        if self.topology == "one_peer":
            self.schedule = OnePeer(num_workers)
        elif isinstance(self.topology, str):
            self.schedule = static(build(self.topology, num_workers, seed=self.seed))
        else:
            self.schedule = static(self.topology) if isinstance(self.topology, nx.Graph) else self.topology
        if len(self.schedule.support) != num_workers:
            raise ValueError(f"topology has {len(self.schedule.support)} nodes; {num_workers} workers have registered")
        if not self.allow_disconnected:
            check_connected(self.schedule)
        self.rule.lay_out(self.schedule, self.seed, shard_sizes)
        if self.robust:
            self._warn_of_single_neighbours()
        has_local_momentum = self.momentum_mixing == "local" and self.sgd.momentum > 0
        if self.correction == "tracking" and has_local_momentum and isinstance(self.schedule, OnePeer):
            log(
                WARNING,
                "strategy.correction=tracking with local momentum loses accuracy on topology.schedule=one_peer: "
                "use strategy.momentum_mixing=mixed",
            )

    def neighbours(self, rank: int, round_number: int) -> list[int]:
        """Return a worker's neighbours in the round's graph."""
        return sorted(self.schedule.graph(round_number - 1).neighbors(rank))

    def _warn_of_single_neighbours(self) -> None:
        graphs = [self.base_graph(index + 1) for index in range(self.schedule.period or 1)]
        exposed = sorted({rank for graph in graphs for rank in graph if graph.degree(rank) == 1})
        if exposed:
            log(
                WARNING,
                "strategy.robust: workers %s have a single neighbour in some round and nobody to compare it with: "
                "choose a graph with more edges, such as topology=exponential",
                exposed,
            )

    def mixing(self, numbers: RoundNumbers) -> Mixing:
        """Return the rule's matrix, restricted to the workers present; with ``robust``, with self-centred clipping."""
        return self.clipped(self.unclipped(numbers), numbers)

    def unclipped(self, numbers: RoundNumbers) -> Mixing:
        """Return the rule's matrix, restricted to the workers present."""
        matrix, active = self.rule.at(numbers.round - 1)
        graph = active if len(numbers.present) == self.num_workers else among(active, numbers.present)
        models = 1 + bool(self.momentum_mixing == "mixed" and self.sgd.momentum) + (self.correction == "tracking")
        return Mixing(restrict(matrix, numbers.present), graph, models * degrees(graph))

    def clipped(self, mixing: Mixing, numbers: RoundNumbers) -> Mixing:
        """Return a matrix with self-centred clipping if ``robust`` is set, otherwise unchanged.

        The radius of a worker comes from all of its neighbours in the round's graph: of a matching, which leaves it
        one, it could not tell whether that one lies.
        """
        if not self.robust:
            return mixing
        around = among(self.base_graph(numbers.round), numbers.present)
        distances = numbers.ask().distances(around)
        assert isinstance(mixing.matrix, np.ndarray)
        return replace(mixing, matrix=clip(mixing.matrix, distances, radii(distances, around)))

    def base_graph(self, round_number: int) -> nx.Graph:
        """Return the graph whose edges a round may use: of a matching drawn afresh, the one that it is drawn from."""
        return self.schedule.support if self.schedule.period is None else self.schedule.graph(round_number - 1)


def among(graph: nx.Graph, present: Ints) -> nx.Graph:
    """Return the part of a graph between workers that are present, on all its nodes."""
    active = nx.create_empty_copy(graph)
    active.add_edges_from(graph.subgraph(present.tolist()).edges)
    return active


def degrees(graph: nx.Graph) -> Floats:
    """Return the degrees by rank, shape (N,)."""
    return np.array([graph.degree(rank) for rank in range(len(graph))], dtype=np.float64)
