"""Edge colouring: a graph as a union of disjoint matchings."""

from itertools import pairwise

import networkx as nx


def matchings(graph: nx.Graph) -> list[list[tuple[int, int]]]:
    """Decompose a graph into node-disjoint matchings by Misra and Gries' edge colouring.

    G0 and its copies store their published matchings in the graph attribute ``matchings``. These are returned if they
    cover exactly the edges of the graph, because MATCHA's published values hold only for them.

    Parameters
    ----------
    graph : networkx.Graph
        Simple graph on ranks.

    Returns
    -------
    list of list of tuple of int
        At most ``max degree + 1`` matchings, each a sorted list of edges (i, j) with i < j; each edge occurs once. The
        result is deterministic.

    References
    ----------
    J. Misra and D. Gries, A constructive proof of Vizing's theorem, Information Processing Letters 41, 1992.
    """
    edges = sorted((min(edge), max(edge)) for edge in graph.edges)
    known = [sorted((min(edge), max(edge)) for edge in matching) for matching in graph.graph.get("matchings", ())]
    if known and sorted(edge for matching in known for edge in matching) == edges:
        return known
    colouring = _Colouring(graph)
    # Edges of high degree first: irregular graphs then rarely need the colour beyond the maximum degree.
    for u, v in sorted(edges, key=lambda edge: -graph.degree[edge[0]] - graph.degree[edge[1]]):
        colouring.add(u, v)
    classes: dict[int, list[tuple[int, int]]] = {}
    for u, v in edges:
        classes.setdefault(colouring.of[u][v], []).append((u, v))
    return [classes[colour] for colour in sorted(classes)]


class _Colouring:
    """A proper partial edge colouring: ``of[u][v]`` is an edge's colour, ``at[u][c]`` the neighbour by colour c."""

    def __init__(self, graph: nx.Graph) -> None:
        self.colours = range(max((degree for _, degree in graph.degree), default=0) + 1)
        self.of: dict[int, dict[int, int]] = {node: {} for node in graph}
        self.at: dict[int, dict[int, int]] = {node: {} for node in graph}

    def add(self, u: int, v: int) -> None:
        """Colour the edge (u, v), recolouring others if no colour is free at both ends."""
        common = next((c for c in self.colours if c not in self.at[u] and c not in self.at[v]), None)
        if common is not None:
            self._set(u, v, common)
            return
        fan = self._fan(u, v)
        c, d = self._free(u), self._free(fan[-1])
        self._invert(u, c, d)
        self._rotate(u, fan[: self._end(u, fan, d) + 1], d)

    def _free(self, node: int) -> int:
        return next(colour for colour in self.colours if colour not in self.at[node])

    def _set(self, u: int, v: int, colour: int) -> None:
        self.of[u][v] = self.of[v][u] = colour
        self.at[u][colour], self.at[v][colour] = v, u

    def _clear(self, u: int, v: int) -> int:
        colour = self.of[u].pop(v)
        del self.of[v][u], self.at[u][colour], self.at[v][colour]
        return colour

    def _fan(self, u: int, v: int) -> list[int]:
        """Return a maximal fan of u: neighbours such that each edge's colour is free at the previous neighbour."""
        fan, rest = [v], sorted(self.of[u])
        while True:
            following = next((w for w in rest if self.of[u][w] not in self.at[fan[-1]]), None)
            if following is None:
                return fan
            fan.append(following)
            rest.remove(following)

    def _invert(self, u: int, c: int, d: int) -> None:
        """Swap colours c and d along the path that leaves u by an edge of colour d; then d is free at u."""
        path, node, colour = [], u, d
        while colour in self.at[node]:
            following = self.at[node][colour]
            path.append((node, following, c + d - colour))
            node, colour = following, c + d - colour
        for a, b, _ in path:
            self._clear(a, b)
        for a, b, colour in path:
            self._set(a, b, colour)

    def _end(self, u: int, fan: list[int], d: int) -> int:
        """Return the first position of the fan where d is free; Vizing's lemma: the fan is valid up to there."""
        return next(k for k, w in enumerate(fan) if d not in self.at[w] and self._is_fan(u, fan[: k + 1]))

    def _is_fan(self, u: int, fan: list[int]) -> bool:
        return all(self.of[u][after] not in self.at[before] for before, after in pairwise(fan))

    def _rotate(self, u: int, fan: list[int], d: int) -> None:
        """Assign to each edge of the fan the colour of the next one, and d to the last."""
        colours = [*(self._clear(u, w) for w in fan[1:]), d]
        for w, colour in zip(fan, colours, strict=True):
            self._set(u, w, colour)
