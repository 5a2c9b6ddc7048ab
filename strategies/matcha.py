"""MATCHA (Wang et al., arXiv 1905.09435): random matchings under a communication budget."""

from typing import Unpack

import networkx as nx

from echelon.algorithms import matcha
from echelon.algorithms.connectivity import require_connected
from echelon.algorithms.schedules import Schedule
from echelon.algorithms.topology import matchings
from echelon.core.mixing import Floats, Ints
from echelon.core.strategy import Order
from echelon.server.options import Options

from .gossip import Gossip


class Matchings:
    """The rule of MATCHA: each matching of the round's graph is active with its own probability.

    Parameters
    ----------
    communication_budget : float
        Mean share of the matchings that are active, in (0, 1].
    """

    def __init__(self, communication_budget: float = 0.5) -> None:
        if not 0 < communication_budget <= 1:
            raise ValueError(f"strategy.communication_budget must lie in (0, 1]; got {communication_budget}")
        self.communication_budget = communication_budget

    def lay_out(self, schedule: Schedule, seed: int, shard_sizes: Ints) -> None:
        """Solve for the activation probabilities of every graph of the schedule.

        Raises
        ------
        ValueError
            If one of the graphs is not connected by itself, or the schedule gives matchings.
        """
        if schedule.period is None or schedule.matrix(0) is not None:
            given = "random_matching" if schedule.period is None else "one_peer"
            raise ValueError(
                f"topology.schedule must be static or rotation for MATCHA, which draws matchings itself; got {given}"
            )
        for index in range(schedule.period):
            require_connected(schedule.graph(index), "MATCHA's graph of every round", "add edges between them")
        self._seed = seed
        self._num_workers = len(shard_sizes)
        self._matchings = [matchings(schedule.graph(index)) for index in range(schedule.period)]
        self._plans = [matcha.solve(found, self._num_workers, self.communication_budget) for found in self._matchings]

    def at(self, round_index: int) -> tuple[Floats, nx.Graph]:
        """Return W = I - alpha sum of the active Laplacians, and the active edges."""
        place = round_index % len(self._plans)
        plan, found = self._plans[place], self._matchings[place]
        drawn = matcha.active(plan, self._seed, round_index)
        matrix = matcha.mixing_matrix(plan, found, drawn, self._num_workers)
        return matrix, matcha.active_graph(found, drawn, self._num_workers)


class Matcha(Gossip):
    """MATCHA decentralised SGD.

    Parameters
    ----------
    topology : str, networkx.Graph or Schedule
        The base graph, or graphs in turn, each connected.
    communication_budget : float
        See :class:`Matchings`.
    order
        See :class:`strategies.gossip.Gossip`.
    **options : Options
        See :class:`echelon.server.options.Options`.
    """

    def __init__(
        self,
        topology: str | nx.Graph | Schedule = "ring",
        *,
        communication_budget: float = 0.5,
        order: Order = "adapt_then_combine",
        **options: Unpack[Options],
    ) -> None:
        rule = Matchings(communication_budget)
        super().__init__(topology, rule, order=order, **options)
