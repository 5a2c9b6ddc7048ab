from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echelon.algorithms import topology

ANY_SIZE = ["ring", "torus", "complete", "star", "path", "er", "geometric", "exponential"]
G0_DEGREES = [3, 5, 2, 4, 1, 2, 3, 4]


def degrees(graph: nx.Graph) -> list[int]:
    return [graph.degree[rank] for rank in range(len(graph))]


@st.composite
def graphs(draw: st.DrawFn, largest: int = 12) -> nx.Graph:
    n = draw(st.integers(1, largest))
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return topology.build("edges", n, edges=edges)


class TestBuild:
    @pytest.mark.parametrize(
        ("name", "n", "edges"),
        [
            ("ring", 1, []),
            ("ring", 2, [(0, 1)]),
            ("ring", 4, [(0, 1), (0, 3), (1, 2), (2, 3)]),
            ("torus", 1, []),
            ("torus", 2, [(0, 1)]),
            ("torus", 6, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (3, 5), (4, 5)]),
            ("torus", 5, [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]),
            ("complete", 1, []),
            ("complete", 3, [(0, 1), (0, 2), (1, 2)]),
            ("star", 1, []),
            ("star", 4, [(0, 1), (0, 2), (0, 3)]),
            ("path", 1, []),
            ("path", 3, [(0, 1), (1, 2)]),
            ("exponential", 1, []),
            ("exponential", 2, [(0, 1)]),
            (
                "exponential",
                6,
                [(0, 1), (0, 2), (0, 4), (0, 5), (1, 2), (1, 3), (1, 5), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)],
            ),
        ],
    )
    def test_edges_by_hand(self, name: str, n: int, edges: list[tuple[int, int]]) -> None:
        graph = topology.build(name, n)
        assert list(graph.nodes) == list(range(n))
        assert list(graph.edges) == edges

    @pytest.mark.parametrize("name", ANY_SIZE)
    @pytest.mark.parametrize("n", [1, 2, 3, 7, 16])
    def test_every_size_is_connected_and_simple(self, name: str, n: int) -> None:
        graph = topology.build(name, n)
        assert list(graph.nodes) == list(range(n))
        assert nx.is_connected(graph)
        assert nx.number_of_selfloops(graph) == 0

    def test_torus_of_sixteen_is_four_by_four(self) -> None:
        graph = topology.build("torus", 16)
        assert degrees(graph) == [4] * 16
        assert sorted(graph[0]) == [1, 3, 4, 12]

    def test_regular_has_the_degree(self) -> None:
        assert degrees(topology.build("regular", 10, degree=4)) == [4] * 10
        assert list(topology.build("regular", 2, degree=1).edges) == [(0, 1)]
        assert list(topology.build("regular", 1, degree=0).edges) == []

    @pytest.mark.parametrize(("name", "params"), [("er", {"p": 0.3}), ("geometric", {"radius": 0.4}), ("regular", {})])
    def test_random_graphs_are_a_function_of_the_seed(self, name: str, params: dict[str, float]) -> None:
        edges = [list(topology.build(name, 16, seed=seed, **params).edges) for seed in (3, 3, 4)]
        assert edges[0] == edges[1] != edges[2]

    def test_er_redraws_until_it_is_connected(self) -> None:
        assert all(nx.is_connected(topology.build("er", 12, p=0.2, seed=seed)) for seed in range(10))

    def test_an_edge_given_twice_counts_once(self) -> None:
        assert list(topology.build("edges", 3, edges=[[1, 0], [0, 1], [2, 1]]).edges) == [(0, 1), (1, 2)]

    @pytest.mark.parametrize(
        ("name", "n", "params", "message"),
        [
            ("rin", 4, {}, r"topology must be one of ring, torus, .*, edges; got 'rin'"),
            ("ring", 0, {}, r"workers must be at least 1; got 0"),
            ("ring", 4, {"p": 0.3}, r"unknown parameter topology.p of ring \(its parameters: none\); got 0.3"),
            ("er", 4, {"radius": 0.3}, r"unknown parameter topology.radius of er \(its parameters: p\); got 0.3"),
            ("er", 4, {"p": 1.5}, r"topology.p must lie in \[0, 1\]; got 1.5"),
            (
                "er",
                2,
                {"p": 0.0},
                r"topology er with p=0.0 must be connected; .*: \[0\], \[1\]; raise topology.p .*100",
            ),
            ("geometric", 4, {"radius": -1}, r"topology.radius must be at least 0; got -1"),
            (
                "geometric",
                3,
                {"radius": 0},
                r"with radius=0 must be connected; .*: \[0\], \[1\], \[2\]; raise topology.rad",
            ),
            ("regular", 4, {"degree": 4}, r"topology.degree must be below workers=4; got 4"),
            ("regular", 5, {"degree": 3}, r"topology.degree x workers must be even; got 3 x 5"),
            (
                "regular",
                4,
                {"degree": 1},
                r"regular with degree=1 must be connected; got 2 components: \[0, .\], \[., .\]",
            ),
            ("g0", 5, {}, r"topology=g0 needs workers=8; got 5"),
            ("edges", 3, {"edges": [(0, 1), (1, 3)]}, r"pairs of different ranks in 0..2; got \[1, 3\]"),
            ("edges", 3, {"edges": [(-1, 1)]}, r"got \[-1, 1\]"),
            ("edges", 3, {"edges": [(2, 2)]}, r"got \[2, 2\]"),
            ("edges", 3, {"edges": [(0, 1, 2)]}, r"got \[0, 1, 2\]"),
        ],
    )
    def test_errors(self, name: str, n: int, params: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            topology.build(name, n, **params)


class TestG0:
    def test_there_are_three_copies_to_rotate(self) -> None:
        with pytest.raises(ValueError, match=r"^topology.rotate must be 3 for topology=g0_rotating, .*; got 5 "):
            topology.schedule("g0_rotating", 8, kind="rotation", rotate=5)

    def test_degrees(self) -> None:
        assert degrees(topology.g0()) == G0_DEGREES
        assert topology.g0().number_of_edges() == 12

    def test_copies_are_relabelled_g0(self) -> None:
        copies = topology.g0_copies()
        assert nx.utils.graphs_equal(copies[0], topology.g0())
        assert all(nx.is_isomorphic(copy, copies[0]) for copy in copies)
        assert [degrees(copy) for copy in copies[1:]] == [[4, 1, 4, 3, 5, 3, 2, 2], [3, 4, 2, 5, 4, 2, 3, 1]]

    def test_published_matchings_are_disjoint_and_cover(self) -> None:
        for copy in topology.g0_copies():
            assert_decomposition(topology.matchings(copy), copy)
            assert [len(part) for part in topology.matchings(copy)] == [4, 2, 3, 2, 1]
        assert topology.matchings(topology.build("g0", 8))[0] == [(0, 4), (1, 5), (2, 3), (6, 7)]


def assert_decomposition(parts: list[list[tuple[int, int]]], graph: nx.Graph) -> None:
    for part in parts:
        nodes = [node for edge in part for node in edge]
        assert len(nodes) == len(set(nodes))
    edges = sorted((min(edge), max(edge)) for part in parts for edge in part)
    assert edges == sorted(graph.edges)


class TestMatchings:
    @given(graphs())
    def test_disjoint_covering_sorted_and_at_most_one_above_the_degree(self, graph: nx.Graph) -> None:
        parts = topology.matchings(graph)
        assert_decomposition(parts, graph)
        assert len(parts) <= max(degrees(graph)) + 1
        assert all(part == sorted(part) and all(i < j for i, j in part) for part in parts)
        assert all(parts)

    def test_known_numbers(self) -> None:
        assert topology.matchings(topology.build("ring", 8)) == [
            [(0, 1), (2, 3), (4, 5), (6, 7)],
            [(0, 7), (1, 2), (3, 4), (5, 6)],
        ]
        assert len(topology.matchings(topology.build("ring", 7))) == 3
        assert (
            len(topology.matchings(nx.Graph(topology.g0().edges))) == 5
        )  # coloured: the edges alone are no published graph
        assert topology.matchings(topology.build("ring", 1)) == []

    def test_recolours_where_greedy_colouring_fails(self) -> None:
        # First fit alone needs 15 colours here.
        assert len(topology.matchings(topology.build("complete", 9))) == 9

    def test_insertion_order_does_not_matter(self) -> None:
        edges = list(topology.g0().edges)
        reversed_graph = nx.Graph([(j, i) for i, j in reversed(edges)])
        assert topology.matchings(reversed_graph) == topology.matchings(nx.Graph(edges))

    def test_published_matchings_give_way_once_the_graph_changes(self) -> None:
        graph = topology.g0()
        graph.add_edge(2, 4)
        assert_decomposition(topology.matchings(graph), graph)
