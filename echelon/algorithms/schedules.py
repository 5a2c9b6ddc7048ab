"""Schedules: the active graph of each round."""

from dataclasses import dataclass
from typing import Protocol

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from echelon.algorithms.colouring import matchings
from echelon.algorithms.connectivity import require_connected
from echelon.algorithms.seeds import rng

_CANDIDATES = 32  # relabellings drawn per copy; the one with most new edges is kept


class Schedule(Protocol):
    """The graph of every round; rounds count from 0."""

    @property
    def period(self) -> int | None:
        """Number of rounds after which the graphs repeat; None if each round draws a new graph."""

    @property
    def support(self) -> nx.Graph:
        """Union of all graphs that may become active."""

    def graph(self, round_index: int) -> nx.Graph:
        """Return the graph of a round; callers must not modify it."""

    def matrix(self, round_index: int) -> NDArray[np.float64] | None:
        """Return W of a round, (N, N), if the schedule prescribes it; None leaves it to the strategy."""


@dataclass(frozen=True)
class Cycle:
    """Round t uses ``graphs[t mod K]``."""

    graphs: tuple[nx.Graph, ...]

    @property
    def period(self) -> int:
        """Return the number of graphs K."""
        return len(self.graphs)

    @property
    def support(self) -> nx.Graph:
        """Return the union of the graphs."""
        return nx.compose_all(self.graphs)

    def graph(self, round_index: int) -> nx.Graph:
        """Return the graph of a round."""
        return self.graphs[round_index % len(self.graphs)]

    def matrix(self, round_index: int) -> None:
        """Return None: any matrix of the graph will do."""
        return


@dataclass(frozen=True)
class RandomMatching:
    """A random maximal matching of the base graph in each round, a pure function of (seed, round_index)."""

    base: nx.Graph
    seed: int

    @property
    def period(self) -> None:
        """Return None: graphs do not repeat."""
        return

    @property
    def support(self) -> nx.Graph:
        """Return the base graph, all edges of which may become active."""
        return self.base

    def graph(self, round_index: int) -> nx.Graph:
        """Return the matching of a round as a graph on all ranks."""
        matched: set[int] = set()
        graph = nx.empty_graph(self.base.number_of_nodes())
        for i, j in rng(self.seed, "matching", round_index).permutation(sorted(self.base.edges)).tolist():
            if not matched & {i, j}:
                matched |= {i, j}
                graph.add_edge(i, j)
        return graph

    def matrix(self, round_index: int) -> None:
        """Return None: any matrix of the graph will do."""
        return


def static(graph: nx.Graph) -> Cycle:
    """Return the schedule that uses one graph in every round."""
    return Cycle((graph,))


def rotation(graph: nx.Graph, k: int, seed: int) -> Cycle:
    """Rotate k relabelled copies of one graph (AL-DSGD's dynamic graphs).

    Copy 0 is the graph itself. In each further copy, the workers with the lowest total degree so far take the nodes of
    the highest degree, with random tie-breaking; of 32 draws, the one with most new edges is kept. The matchings are
    relabelled with the graph, so one MATCHA plan applies to all copies.

    Parameters
    ----------
    graph : networkx.Graph
        Graph on ranks 0..N-1.
    k : int
        Number of copies, at least 1.
    seed : int
        The run's root seed.

    Returns
    -------
    Cycle
        Round t uses copy ``t mod k``.

    Raises
    ------
    ValueError
        If k is below 1.
    """
    if k < 1:
        raise ValueError(f"topology.rotate must be at least 1; got {k}")
    copies, parts = [graph], matchings(graph)
    for copy in range(1, k):
        generator = rng(seed, "rotation", copy)
        union = nx.compose_all(copies)
        totals = sum(np.array([other.degree[rank] for rank in range(len(graph))]) for other in copies)
        candidates = [_relabelled(graph, parts, np.asarray(totals), generator) for _ in range(_CANDIDATES)]
        copies.append(max(candidates, key=lambda candidate: sum(not union.has_edge(*edge) for edge in candidate.edges)))
    return Cycle(tuple(copies))


def _relabelled(
    graph: nx.Graph, parts: list[list[tuple[int, int]]], totals: np.ndarray, generator: np.random.Generator
) -> nx.Graph:
    """Return a copy in which the workers with the lowest total degree take the nodes of the highest degree."""
    shuffled = generator.permutation(len(graph))
    workers = shuffled[np.argsort(totals[shuffled], kind="stable")]
    places = sorted(range(len(graph)), key=lambda place: -graph.degree[place])
    taken = dict(zip(places, workers.tolist(), strict=True))
    copy = nx.empty_graph(len(graph))
    copy.graph["matchings"] = [[(taken[i], taken[j]) for i, j in matching] for matching in parts]
    copy.add_edges_from(edge for matching in copy.graph["matchings"] for edge in matching)
    return copy


def check_connected(schedule: Schedule) -> None:
    """Raise ValueError, naming the components, unless the union of the graphs of one period is connected."""
    require_connected(schedule.support, "the union of the graphs of one period", "add edges between them")
