"""D-PSGD (Lian et al., NeurIPS 2017): average with all neighbours in the round's graph."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Unpack

import networkx as nx
import numpy as np

from echelon.algorithms import mixing as matrices
from echelon.algorithms.schedules import Schedule
from echelon.core.mixing import Complete, Floats, Ints, Mean, Mixing
from echelon.core.strategy import Order, RoundNumbers
from echelon.server.options import Options

from .gossip import Gossip

MatrixName = Literal["metropolis", "uniform", "laplacian", "target"]

_MATRICES: dict[str, Callable[[nx.Graph], Floats]] = {
    "metropolis": matrices.metropolis,
    "uniform": matrices.uniform,
    "laplacian": matrices.laplacian,
}


class AllEdges:
    """The rule of D-PSGD: every edge of the round's graph is active, every round.

    Parameters
    ----------
    mixing : {"metropolis", "uniform", "laplacian", "target"}
        Mixing matrix, see ``docs/algorithms/d_psgd.md``; ``target`` weights workers by the samples that they hold. A
        schedule that prescribes its matrices, such as ``one_peer``, uses those.
    """

    def __init__(self, mixing: MatrixName = "metropolis") -> None:
        if mixing not in (*_MATRICES, "target"):
            raise ValueError(f"strategy.mixing must be one of {', '.join((*_MATRICES, 'target'))}; got {mixing}")
        self.mixing = mixing

    def lay_out(self, schedule: Schedule, seed: int, shard_sizes: Ints) -> None:
        """Compute the matrices of the graphs that recur.

        Raises
        ------
        ValueError
            For ``target``, if the number of a worker's samples is not known.
        """
        if self.mixing == "target" and not shard_sizes.all():
            raise ValueError(
                f"strategy.mixing=target needs the number of every worker's samples; worker {shard_sizes.argmin()} has "
                "not reported its own: give a partition, or use another mixing matrix"
            )
        self._schedule = schedule
        self._weights = shard_sizes / max(shard_sizes.sum(), 1)
        self._matrices = [self._matrix(index) for index in range(schedule.period or 0)]

    def at(self, round_index: int) -> tuple[Floats, nx.Graph]:
        """Return W and the round's graph."""
        graph = self._schedule.graph(round_index)
        if self._matrices:
            return self._matrices[round_index % len(self._matrices)], graph
        return self._matrix(round_index), graph

    def averages(self, graph: nx.Graph) -> bool:
        """Return whether W = J/N: on a complete graph whose matrix is not prescribed, by all weights but ``target``."""
        return self.mixing != "target" and self._schedule.matrix(0) is None and _is_complete(graph)

    def _matrix(self, round_index: int) -> Floats:
        prescribed = self._schedule.matrix(round_index)
        if prescribed is not None:
            return prescribed
        graph = self._schedule.graph(round_index)
        if self.mixing == "target":
            return matrices.target(graph, self._weights)
        return _MATRICES[self.mixing](graph)


class DPSGD(Gossip):
    """Decentralised parallel SGD: X+ = W Y with a symmetric, doubly stochastic W.

    Parameters
    ----------
    topology : str, networkx.Graph or Schedule
        See :class:`strategies.gossip.Gossip`.
    mixing : {"metropolis", "uniform", "laplacian", "target"}
        See :class:`AllEdges`.
    order, allow_disconnected
        See :class:`strategies.gossip.Gossip`.
    **options : Options
        See :class:`echelon.server.options.Options`.
    """

    def __init__(
        self,
        topology: str | nx.Graph | Schedule = "ring",
        *,
        mixing: MatrixName = "metropolis",
        order: Order = "adapt_then_combine",
        allow_disconnected: bool = False,
        **options: Unpack[Options],
    ) -> None:
        rule = AllEdges(mixing)
        super().__init__(
            topology,
            rule,
            order=order,
            allow_disconnected=allow_disconnected,
            **options,
        )
        self._all_edges = rule

    def mixing(self, numbers: RoundNumbers) -> Mixing:
        """Return the rule's matrix, restricted to the workers present; where it is J/N, the mean."""
        found = super().mixing(numbers)
        if self.robust or isinstance(found.graph, Complete) or not self._all_edges.averages(found.graph):
            return found
        shares = np.full(self.num_workers, 1 / self.num_workers)
        return replace(found, matrix=Mean(shares), graph=Complete(numbers.present))


def _is_complete(graph: nx.Graph) -> bool:
    edges = graph.number_of_edges() - nx.number_of_selfloops(graph)
    return bool(2 * edges == len(graph) * (len(graph) - 1))
