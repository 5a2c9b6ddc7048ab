"""One-peer schedules: in every round a worker averages with at most one other, and a whole period averages exactly.

For N a power of two these are the edges of a hypercube, dimension by dimension. For other N it is the Base-2 graph:
the Base-(k+1) graph for k = 1 of Y. Takezawa, R. Sato, H. Bao, K. Niwa and M. Yamada, Beyond exponential graph,
NeurIPS 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from numpy.typing import NDArray

# Pairs of ranks that average in one round, with their weight W_ij.
Pairs = list[tuple[int, int, float]]


@dataclass(frozen=True)
class OnePeer:
    """A schedule of matchings with weights of their own; the product of the matrices of one period is J/N.

    Parameters
    ----------
    num_workers : int
        N, at least 1.

    Raises
    ------
    ValueError
        If there are no workers.

    Examples
    --------
    Three workers need weights other than 1/2:

    >>> from echelon.algorithms.one_peer import OnePeer
    >>> import numpy as np
    >>> schedule = OnePeer(3)
    >>> [list(schedule.graph(t).edges) for t in range(schedule.period)]
    [[(0, 1)], [(0, 2)], [(0, 1)]]
    >>> bool(np.allclose(schedule.matrix(2) @ schedule.matrix(1) @ schedule.matrix(0), 1 / 3))
    True
    """

    num_workers: int

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"workers must be at least 1; got {self.num_workers}")

    @cached_property
    def _rounds(self) -> list[Pairs]:
        return _rounds(self.num_workers) or [[]]

    @property
    def period(self) -> int:
        """Return the number of rounds after which models are averaged exactly: about log2 N to 2 log2 N + 1."""
        return len(self._rounds)

    @property
    def support(self) -> nx.Graph:
        """Return the union of the matchings."""
        return nx.compose_all(self.graph(index) for index in range(self.period))

    def graph(self, round_index: int) -> nx.Graph:
        """Return the matching of a round as a graph on all ranks."""
        graph = nx.empty_graph(self.num_workers)
        graph.add_edges_from(sorted((i, j) for i, j, _ in self._rounds[round_index % self.period]))
        return graph

    def matrix(self, round_index: int) -> NDArray[np.float64]:
        """Return W of a round, (N, N), symmetric and doubly stochastic."""
        matrix = np.eye(self.num_workers)
        for i, j, weight in self._rounds[round_index % self.period]:
            matrix[i, j] = matrix[j, i] = weight
            matrix[i, i] = matrix[j, j] = 1 - weight
        return matrix


def _rounds(n: int) -> list[Pairs]:
    """Return the rounds of one period: the shorter of averaging all at once, or in 2^a groups and then across them."""
    groups = n & -n
    size = n // groups
    at_once = _simple(range(n))
    if groups in (1, n):
        return at_once
    within = _side_by_side([_simple(range(start, start + size)) for start in range(0, n, size)])
    across = _side_by_side([_hypercube(range(place, n, size)) for place in range(size)])
    return min(at_once, within + across, key=len)


def _hypercube(members: Sequence[int]) -> list[Pairs]:
    """Return the rounds that average 2^p members."""
    return [
        [(members[i], members[i ^ bit], 0.5) for i in range(len(members)) if i < i ^ bit]
        for bit in (1 << p for p in range(len(members).bit_length() - 1))
    ]


def _simple(members: Sequence[int]) -> list[Pairs]:
    """Return the rounds of the simple Base-2 graph.

    The members are split into blocks V_1, ..., V_L, one per binary digit of their number. All blocks average within
    themselves. Then block after block exchanges with as many of its s members as there are members in later blocks, r,
    at weight s / (s + r); this makes its mean, and that of the later blocks, the mean of both. Each block averages
    within itself once more after its exchange.
    """
    blocks, start = [], 0
    for size in (1 << p for p in reversed(range(len(members).bit_length())) if len(members) >> p & 1):
        blocks.append(members[start : start + size])
        start += size
    dimension = len(blocks[0]).bit_length() - 1
    rounds: list[Pairs] = [[] for _ in range(dimension if len(blocks) == 1 else 2 * dimension + 1)]
    start = 0
    for place, block in enumerate(blocks):
        start += len(block)
        rest = members[start:]
        _add(rounds, 0, _hypercube(block))
        if rest:
            weight = len(block) / (len(block) + len(rest))
            exchange = [(i, j, weight) for i, j in zip(block, rest, strict=False)]
            _add(rounds, dimension + place, [exchange, *_hypercube(block)])
    return rounds


def _side_by_side(parts: list[list[Pairs]]) -> list[Pairs]:
    """Return rounds in which disjoint sets of members do theirs at the same time."""
    rounds: list[Pairs] = [[] for _ in range(max(map(len, parts)))]
    for part in parts:
        _add(rounds, 0, part)
    return rounds


def _add(rounds: list[Pairs], start: int, more: list[Pairs]) -> None:
    for place, pairs in enumerate(more, start):
        rounds[place] += pairs
