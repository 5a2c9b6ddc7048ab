"""What the decentralised strategies share: a schedule of graphs, a mixing matrix, and the order of the two halves."""

from collections.abc import Mapping
from typing import Literal, Protocol, Unpack

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from echelon.algorithms.mixing import mean_drift, mix, restrict
from echelon.algorithms.schedules import Schedule, check_connected, static
from echelon.algorithms.topology import build
from echelon.server.layout import Row
from echelon.server.options import Options
from echelon.server.strategy import Floats, Ints, Mixing, PerWorkerStrategy

Order = Literal["adapt_then_combine", "combine_then_adapt"]


class Rule(Protocol):
    """With which weights neighbours average: D-PSGD's or MATCHA's."""

    def prepare(self, schedule: Schedule, seed: int, shard_sizes: Ints) -> None:
        """Get ready for a run on these graphs."""

    def at(self, round_index: int) -> tuple[Floats, nx.Graph]:
        """Return W for all workers and the active edges of a round (from 0)."""


class Gossip(PerWorkerStrategy):
    """Workers average with their neighbours in the round's graph.

    Parameters
    ----------
    topology : str, networkx.Graph or Schedule
        A name (see :func:`echelon.algorithms.topology.build`), one graph for all rounds, or a graph per round.
    rule : Rule
        With which weights.
    order : {"adapt_then_combine", "combine_then_adapt"}
        X+ = W Y, or D-PSGD's literal X+ = W X + (Y - X), for one local step.
    allow_disconnected : bool
        Accept graphs that leave workers apart for ever (only to show what that does).
    **options : Options
        See :class:`echelon.server.options.Options`.
    """

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

    def prepare(self, grid: Grid, arrays: ArrayRecord, config: ConfigRecord) -> None:
        """Enrol the workers and lay out the graphs of all rounds for them.

        Raises
        ------
        ValueError
            If the graphs leave workers apart, or are not for as many workers as have enrolled.
        """
        super().prepare(grid, arrays, config)
        num_workers = len(self.roster)
        if isinstance(self.topology, str):
            self.schedule: Schedule = static(build(self.topology, num_workers, seed=self.seed))
        else:
            self.schedule = static(self.topology) if isinstance(self.topology, nx.Graph) else self.topology
        if len(self.schedule.support) != num_workers:
            raise ValueError(f"topology has {len(self.schedule.support)} nodes; {num_workers} workers have enrolled")
        if not self.allow_disconnected:
            check_connected(self.schedule)
        self.rule.prepare(self.schedule, self.seed, self.shard_sizes)

    def round_mixing(self, server_round: int, present: Ints) -> Mixing:
        """Return the rule's matrix, restricted to the workers present."""
        matrix, active = self.rule.at(server_round - 1)
        graph = among(active, present)
        return Mixing(restrict(matrix, present), graph, degrees(graph))

    def combine(self, updated: Mapping[int, Row], mixing: Mixing) -> float:
        """Mix and adapt in the order chosen."""
        if self.order == "adapt_then_combine":
            return super().combine(updated, mixing)
        mixed = slice(self.layout.num_parameters)
        steps = {rank: row[mixed] - self.state.rows[rank, mixed] for rank, row in updated.items()}
        drift = mean_drift(mixing.matrix, self.state.rows, self.layout.num_parameters)
        mix(mixing.matrix, self.state.rows, self.layout.num_parameters)
        for rank, row in updated.items():
            self.state.rows[rank, self.layout.num_parameters :] = row[self.layout.num_parameters :]
            self.state.rows[rank, mixed] += steps[rank]
        return drift


def among(graph: nx.Graph, present: Ints) -> nx.Graph:
    """Return the part of a graph between workers that are present, on all its nodes."""
    active = nx.create_empty_copy(graph)
    active.add_edges_from(graph.subgraph(present.tolist()).edges)
    return active


def degrees(graph: nx.Graph) -> Floats:
    """Return the degrees by rank, shape (N,): the models that each worker sends."""
    return np.array([graph.degree(rank) for rank in range(len(graph))], dtype=np.float64)
