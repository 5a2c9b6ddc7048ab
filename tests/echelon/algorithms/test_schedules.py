import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echelon.algorithms import topology
from echelon.algorithms.schedules import Cycle, RandomMatching, check_connected, rotation, static


def degrees(graph: nx.Graph) -> list[int]:
    return [graph.degree[rank] for rank in range(len(graph))]


def totals(schedule: Cycle) -> list[int]:
    return [sum(column) for column in zip(*map(degrees, schedule.graphs), strict=True)]


class TestStaticAndCycle:
    def test_static_repeats_one_graph(self) -> None:
        graph = topology.build("ring", 5)
        schedule = static(graph)
        assert schedule.period == 1
        assert [schedule.graph(t) is graph for t in (0, 1, 7)] == [True] * 3

    def test_g0_rotating_cycles_through_the_papers_copies(self) -> None:
        schedule = topology.schedule("g0_rotating", 8)
        copies = topology.g0_copies()
        assert schedule.period == 3
        assert all(nx.utils.graphs_equal(schedule.graph(t), copies[t % 3]) for t in range(7))
        assert sorted(schedule.support.edges) == sorted({edge for copy in copies for edge in copy.edges})


class TestRotation:
    def test_copies_of_g0_even_out_the_degrees(self) -> None:
        schedule = rotation(topology.g0(), 2, seed=0)
        assert totals(schedule) == [6] * 8  # static G0: 2 to 10
        assert max(totals(rotation(topology.g0(), 3, seed=0))) <= 6 + 5

    def test_the_hub_of_a_star_moves(self) -> None:
        hubs = [
            max(range(6), key=degrees(graph).__getitem__) for graph in rotation(topology.build("star", 6), 6, 1).graphs
        ]
        assert sorted(hubs) == list(range(6))

    def test_ring_copies_meet_other_neighbours(self) -> None:
        schedule = rotation(topology.build("ring", 16), 3, seed=0)
        assert schedule.support.number_of_edges() >= 40  # of 48 if no pair met twice; 16 without relabelling

    @given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 5))
    @settings(max_examples=30)
    def test_copy_zero_is_the_graph_and_the_rest_are_relabelled(self, n: int, k: int, seed: int) -> None:
        graph = topology.build("er", n, p=0.6, seed=seed)
        schedule = rotation(graph, k, seed)
        assert schedule.period == k
        assert schedule.graph(0) is graph
        assert all(list(copy.nodes) == list(range(n)) for copy in schedule.graphs)
        assert all(nx.is_isomorphic(copy, graph) for copy in schedule.graphs)

    def test_the_matchings_are_relabelled_with_the_graph(self) -> None:
        for graph in (topology.g0(), topology.build("er", 9, p=0.5)):
            sizes = [len(part) for part in topology.matchings(graph)]
            for copy in rotation(graph, 4, seed=1).graphs:
                parts = topology.matchings(copy)
                assert [len(part) for part in parts] == sizes
                assert sorted(edge for part in parts for edge in part) == sorted((min(e), max(e)) for e in copy.edges)

    def test_is_a_function_of_the_seed(self) -> None:
        edges = [[sorted(copy.edges) for copy in rotation(topology.g0(), 3, seed).graphs] for seed in (0, 0, 1)]
        assert edges[0] == edges[1] != edges[2]

    def test_refuses_no_copies(self) -> None:
        with pytest.raises(ValueError, match=r"topology.rotate must be at least 1; got 0"):
            rotation(topology.g0(), 0, seed=0)


class TestRandomMatching:
    def test_each_round_is_a_maximal_matching_of_the_base(self) -> None:
        schedule = RandomMatching(topology.g0(), seed=0)
        for t in range(30):
            graph = schedule.graph(t)
            assert list(graph.nodes) == list(range(8))
            assert max(degrees(graph)) == 1
            assert all(topology.g0().has_edge(*edge) for edge in graph.edges)
            assert nx.is_maximal_matching(topology.g0(), set(graph.edges))

    def test_any_round_without_state_and_every_edge_in_turn(self) -> None:
        schedule = RandomMatching(topology.g0(), seed=2)
        backwards = [sorted(schedule.graph(t).edges) for t in reversed(range(200))]
        forwards = [sorted(schedule.graph(t).edges) for t in range(200)]
        assert forwards == backwards[::-1]
        assert {edge for edges in forwards for edge in edges} == set(topology.g0().edges)
        assert schedule.period is None

    def test_one_worker_stays_alone(self) -> None:
        assert list(RandomMatching(topology.build("ring", 1), 0).graph(3).edges) == []


class TestLegacyAlternating:
    def test_splits_g0_into_zero_four_and_the_rest(self) -> None:
        schedule = topology.legacy_alternating(topology.g0())
        assert sorted(schedule.graph(0).edges) == [(0, 4), (1, 5), (2, 3), (6, 7)]
        assert sorted(schedule.graph(1).edges) == [(1, 7), (3, 6)]
        assert schedule.period == 2
        assert sorted(map(sorted, nx.connected_components(schedule.support))) == [[0, 4], [1, 2, 3, 5, 6, 7]]

    def test_other_graphs_use_their_first_two_matchings(self) -> None:
        graph = topology.build("complete", 5)
        schedule = topology.legacy_alternating(graph)
        assert [sorted(copy.edges) for copy in schedule.graphs] == topology.matchings(graph)[:2]

    def test_one_worker(self) -> None:
        assert topology.legacy_alternating(topology.build("ring", 1)).period == 1


class TestSchedule:
    @pytest.mark.parametrize(
        ("kind", "period"),
        [("static", 1), ("rotation", 4), ("random_matching", None), ("one_peer", 3), ("legacy_alternating", 2)],
    )
    def test_kinds(self, kind: str, period: int | None) -> None:
        assert topology.schedule("g0", 8, kind=kind, rotate=4).period == period

    def test_kinds_listed_are_the_kinds_known(self) -> None:
        assert topology.SCHEDULES == ("static", "rotation", "random_matching", "one_peer", "legacy_alternating")
        assert topology.TOPOLOGIES[-3:] == ("edges", "g0_rotating", "auto")

    @pytest.mark.parametrize(
        ("n", "kind", "same"),
        [
            (8, None, ("g0_rotating", None)),
            (8, "static", ("g0", "static")),
            (4, None, ("exponential", "static")),
            (5, "rotation", ("exponential", "rotation")),
        ],
    )
    def test_auto(self, n: int, kind: str | None, same: tuple[str, str | None]) -> None:
        found, expected = topology.schedule("auto", n, kind=kind), topology.schedule(same[0], n, kind=same[1])
        assert found.period == expected.period
        for index in range(found.period or 1):
            assert nx.utils.graphs_equal(found.graph(index), expected.graph(index))

    @pytest.mark.parametrize("n", range(1, 12))
    def test_the_default_suits_every_number_of_workers(self, n: int) -> None:
        assert nx.is_connected(topology.schedule("auto", n).support)

    @pytest.mark.parametrize("kind", topology.SCHEDULES)
    @pytest.mark.parametrize("n", [1, 2])
    def test_small_numbers_of_workers(self, kind: str, n: int) -> None:
        assert len(topology.schedule("ring", n, kind=kind).graph(5)) == n

    def test_parameters_and_seed_reach_the_graph(self) -> None:
        schedule = topology.schedule("er", 9, seed=5, p=0.4)
        assert nx.utils.graphs_equal(schedule.graph(0), topology.build("er", 9, seed=5, p=0.4))

    def test_a_disconnected_graph_is_fine_if_its_rotation_connects(self) -> None:
        edges = [(0, 1), (2, 3), (4, 5), (6, 7)]
        assert nx.is_connected(topology.schedule("edges", 8, kind="rotation", rotate=4, edges=edges).support)

    @pytest.mark.parametrize("kind", ["static", "random_matching"])
    def test_a_disconnected_union_names_its_components(self, kind: str) -> None:
        message = r"graphs of one period must be connected; got 3 components: \[0, 2\], \[1\], \[3, 4\]; add edges"
        with pytest.raises(ValueError, match=message):
            topology.schedule("edges", 5, kind=kind, edges=[(0, 2), (3, 4)])

    def test_check_connected_looks_at_the_union(self) -> None:
        ring = topology.build("ring", 4)
        halves = Cycle(tuple(topology.build("edges", 4, edges=part) for part in topology.matchings(ring)))
        check_connected(halves)
        with pytest.raises(ValueError, match="2 components"):
            check_connected(static(halves.graph(0)))

    @pytest.mark.parametrize(
        ("name", "n", "kind", "message"),
        [
            ("ring", 4, "rotating", r"topology.schedule must be one of static, rotation, .*; got 'rotating'"),
            ("g0_rotating", 8, "random_matching", r"must be rotation for topology=g0_rotating; got random_matching"),
            ("g0_rotating", 6, "static", r"topology=g0_rotating needs workers=8; got 6"),
        ],
    )
    def test_errors(self, name: str, n: int, kind: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            topology.schedule(name, n, kind=kind)
