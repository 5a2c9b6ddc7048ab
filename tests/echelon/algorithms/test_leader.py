import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echelon.algorithms import matcha, topology
from echelon.algorithms.leader import Leaders, anchors, check_weights, decay, leaders, operator
from echelon.algorithms.mixing import Matrix, metropolis, restrict

DEFAULTS = {"c1": 0.3, "c2": 0.1, "p1": 0.1, "p2": 0.1}
OFF = {"c1": 0.0, "c2": 0.0, "p1": 0.0, "p2": 0.0}


@st.composite
def rounds(draw: st.DrawFn) -> tuple[nx.Graph, list[float], list[int], dict[str, float]]:
    """A possibly disconnected graph, losses with ties and NaN, the present ranks, and valid weights."""
    n = draw(st.integers(1, 9))
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    losses = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, np.nan]), min_size=n, max_size=n))
    present = draw(st.lists(st.integers(0, n - 1), unique=True))
    weight = st.floats(0, 0.49)
    return topology.build("edges", n, edges=edges), losses, present, {key: draw(weight) for key in DEFAULTS}


def literal(
    W: Matrix, graph: nx.Graph, losses: list[float], present: list[int], weights: dict[str, float], Y: Matrix
) -> Matrix:
    """AL-DSGD worker by worker, following the definition."""
    c1, c2, p1, p2 = (weights[key] for key in ("c1", "c2", "p1", "p2"))
    m = restrict(W, present) @ Y
    X = m.copy()
    for i in present:
        circle = [i, *(j for j in sorted(present) if graph.has_edge(i, j))]
        if len(circle) == 1:
            continue
        b = d = i
        for j in circle[1:]:
            if losses[j] < losses[b] or (np.isnan(losses[b]) and not np.isnan(losses[j])):
                b = j
            if graph.degree[j] > graph.degree[d]:
                d = j
        z = (1 - c1 - c2) * m[i] + c1 * Y[b] + c2 * Y[d]
        X[i] = z - p1 * (z - Y[b]) - p2 * (z - Y[d])
    return X


class TestLeaders:
    def test_g0_by_hand(self) -> None:
        # Neighbours: 0: 1 4 7; 1: 0 2 3 5 7; 2: 1 3; 3: 1 2 6 7; 4: 0; 5: 1 6; 6: 3 5 7; 7: 0 1 3 6.
        # Degrees: 3 5 2 4 1 2 3 4.
        found = leaders(topology.g0(), [8, 7, 6, 5, 4, 3, 2, 1])
        np.testing.assert_array_equal(found.best, [7, 7, 3, 7, 4, 6, 7, 7])
        np.testing.assert_array_equal(found.degree, [1, 1, 1, 1, 0, 1, 3, 1])

    def test_ties_go_to_oneself_and_then_to_the_lowest_rank(self) -> None:
        ring = topology.build("ring", 4)
        np.testing.assert_array_equal(leaders(ring, [1, 1, 1, 1]).best, [0, 1, 2, 3])
        np.testing.assert_array_equal(leaders(ring, [2, 1, 2, 1]).best, [1, 1, 1, 3])
        np.testing.assert_array_equal(leaders(ring, [1, 1, 1, 1]).degree, [0, 1, 2, 3])

    def test_unknown_losses_never_win(self) -> None:
        path = topology.build("path", 3)
        np.testing.assert_array_equal(leaders(path, [np.nan, 5, np.nan]).best, [1, 1, 1])
        np.testing.assert_array_equal(leaders(path, [np.nan] * 3).best, [0, 1, 2])
        np.testing.assert_array_equal(leaders(path, [np.inf, np.nan, 1]).best, [0, 2, 2])

    def test_only_the_present_lead_and_follow(self) -> None:
        path = topology.build("path", 4)
        found = leaders(path, [4, 3, 2, 1], present=[0, 1, 3])
        np.testing.assert_array_equal(found.best, [1, 1, 2, 3])
        np.testing.assert_array_equal(found.degree, [1, 1, 2, 3])

    def test_degrees_of_the_base_or_of_the_active_graph(self) -> None:
        base = topology.build("star", 4)
        active = topology.build("edges", 4, edges=[(0, 1)])
        losses = [0.0] * 4
        np.testing.assert_array_equal(leaders(active, losses, degree_graph=base).degree, [0, 0, 2, 3])
        np.testing.assert_array_equal(leaders(active, losses).degree, [0, 1, 2, 3])
        # Worker 0 loses its lead to worker 1 where only present neighbours count: degrees 1 and 2 instead of 3 and 2.
        graph = topology.build("edges", 5, edges=[(0, 1), (0, 2), (0, 3), (1, 4)])
        present = [0, 1, 4]
        np.testing.assert_array_equal(leaders(graph, [0.0] * 5, present).degree, [0, 0, 2, 3, 1])
        counted = leaders(graph, [0.0] * 5, present, graph.subgraph(present))
        np.testing.assert_array_equal(counted.degree, [1, 1, 2, 3, 1])

    def test_needs_one_loss_per_worker(self) -> None:
        with pytest.raises(ValueError, match=r"losses must be one per worker, shape \(8,\); got shape \(3,\)"):
            leaders(topology.g0(), [1, 2, 3])


class TestOperator:
    def test_pair_by_hand(self) -> None:
        # W = 1/2 everywhere, b = 1 for both, d = own (equal degrees).
        # A = .8 * .6 = .48, B = .8 * .3 + .1 = .34, D = .8 * .1 + .1 = .18.
        pair = topology.build("path", 2)
        step = operator(metropolis(pair), pair, [2, 1], **DEFAULTS)
        np.testing.assert_allclose(step, np.array([[0.24 + 0.18, 0.24 + 0.34], [0.24, 0.24 + 0.34 + 0.18]]), atol=1e-15)

    @given(rounds(), st.integers(0, 1000))
    @settings(max_examples=100)
    def test_is_the_definition_worker_by_worker(
        self, case: tuple[nx.Graph, list[float], list[int], dict[str, float]], seed: int
    ) -> None:
        graph, losses, present, weights = case
        W = metropolis(graph)
        Y = np.random.default_rng(seed).standard_normal((len(graph), 3))
        step = operator(W, graph, losses, present=present, **weights)
        np.testing.assert_allclose(step.sum(axis=1), 1, atol=1e-14)
        np.testing.assert_allclose(step @ Y, literal(W, graph, losses, present, weights, Y), atol=1e-13)

    @given(rounds())
    @settings(max_examples=40)
    def test_without_weights_it_is_the_base_rule(
        self, case: tuple[nx.Graph, list[float], list[int], dict[str, float]]
    ) -> None:
        graph, losses, present, _ = case
        W = metropolis(graph)
        np.testing.assert_array_equal(operator(W, graph, losses, present=present, **OFF), restrict(W, present))
        np.testing.assert_array_equal(operator(W, graph, losses, **OFF), W)

    def test_over_matcha_the_leaders_come_from_the_active_matchings(self) -> None:
        base, parts = topology.g0(), topology.matchings(topology.g0())
        plan = matcha.solve(parts, 8, 0.5)
        on = matcha.active(plan, seed=0, round_index=1)
        W, graph = matcha.mixing_matrix(plan, parts, on, 8), matcha.active_graph(parts, on, 8)
        losses = [8, 7, 6, 5, 4, 3, 2, 1]
        np.testing.assert_array_equal(operator(W, graph, losses, degree_graph=base, **OFF), W)
        step = operator(W, graph, losses, degree_graph=base, **DEFAULTS)
        np.testing.assert_array_equal((step != 0) & (W == 0), np.zeros((8, 8), dtype=bool))
        np.testing.assert_allclose(step.sum(axis=1), 1, atol=1e-14)

    @given(rounds())
    @settings(max_examples=40)
    def test_identical_rows_are_a_fixed_point_and_the_absent_stay(
        self, case: tuple[nx.Graph, list[float], list[int], dict[str, float]]
    ) -> None:
        graph, losses, present, weights = case
        step = operator(metropolis(graph), graph, losses, present=present, **weights)
        np.testing.assert_allclose(step @ np.full(len(graph), 7.0), 7.0, atol=1e-13)
        absent = [rank for rank in range(len(graph)) if rank not in present]
        np.testing.assert_array_equal(step[absent], np.eye(len(graph))[absent])

    def test_a_worker_without_an_active_neighbour_keeps_its_row_to_the_bit(self) -> None:
        active = topology.build("edges", 4, edges=[(1, 2)])
        step = operator(metropolis(active), active, [1, 2, 3, 4], degree_graph=topology.build("ring", 4), **DEFAULTS)
        np.testing.assert_array_equal(step[[0, 3]], np.eye(4)[[0, 3]])
        assert step[2, 1] > 0.5

    def test_one_worker_is_left_alone(self) -> None:
        alone = topology.build("ring", 1)
        np.testing.assert_array_equal(operator(metropolis(alone), alone, [1.0], **DEFAULTS), [[1.0]])

    def test_the_mean_moves_towards_the_leaders(self) -> None:
        graph = topology.g0()
        step = operator(metropolis(graph), graph, [8, 7, 6, 5, 4, 3, 2, 1], **DEFAULTS)
        influence = step.sum(axis=0)
        assert influence.argmax() == 7
        assert influence.sum() == pytest.approx(8)
        assert influence[2] < 1 < influence[1]

    def test_the_base_rule_matrix_is_not_changed(self) -> None:
        graph = topology.g0()
        W = metropolis(graph)
        operator(W, graph, list(range(8)), **DEFAULTS)
        np.testing.assert_array_equal(W, metropolis(graph))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"c1": 7.0}, r"strategy.c1 must lie in \[0, 1\); got 7.0"),
            ({"c2": -0.1}, r"strategy.c2 must lie in \[0, 1\); got -0.1"),
            ({"p1": 1.0}, r"strategy.p1 must lie in \[0, 1\); got 1.0"),
            ({"p2": np.nan}, r"strategy.p2 must lie in \[0, 1\); got nan"),
            ({"c1": 0.6, "c2": 0.4}, r"strategy.c1 \+ strategy.c2 must be below 1; got 0.6 \+ 0.4"),
            ({"p1": 0.5, "p2": 0.5}, r"strategy.p1 \+ strategy.p2 must be below 1; got 0.5 \+ 0.5"),
        ],
    )
    def test_refuses_weights_out_of_range(self, change: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            operator(metropolis(topology.g0()), topology.g0(), list(range(8)), **{**DEFAULTS, **change})
        with pytest.raises(ValueError, match=message):
            check_weights(**{**DEFAULTS, **change})


class TestAnchors:
    def test_by_hand(self) -> None:
        found = Leaders(np.array([1, 1, 2]), np.array([0, 2, 2]))
        weights, strengths = anchors(found, l_n=0.3, l_d=0.1)
        np.testing.assert_allclose(weights, [[0, 1, 0], [0, 0, 1], [0, 0, 1]], atol=1e-15)
        np.testing.assert_allclose(strengths, [0.3, 0.1, 0], atol=1e-15)

    def test_two_leaders_by_hand(self) -> None:
        found = Leaders(np.array([1, 0, 0]), np.array([2, 2, 1]))
        weights, strengths = anchors(found, l_n=0.3, l_d=0.1)
        np.testing.assert_allclose(weights, [[0, 0.75, 0.25], [0.75, 0, 0.25], [0.75, 0.25, 0]], atol=1e-15)
        np.testing.assert_allclose(strengths, [0.4, 0.4, 0.4], atol=1e-15)

    def test_the_pull_to_the_anchor_is_the_pull_to_both_leaders(self) -> None:
        X = np.random.default_rng(0).standard_normal((8, 5))
        found = leaders(topology.g0(), [8, 7, 6, 5, 4, 3, 2, 1])
        pull = 0.4 * (X - X[found.best]) + 0.2 * (X - X[found.degree])
        weights, strengths = anchors(found, l_n=0.4, l_d=0.2)
        np.testing.assert_allclose(strengths[:, None] * (X - weights @ X), pull, atol=1e-14)

    def test_a_worker_that_leads_itself_feels_no_force(self) -> None:
        """Also away from where it started, X0: after several steps it is at X."""
        X0, X = np.random.default_rng(0).standard_normal((2, 8, 5))
        found = leaders(topology.g0(), [8, 7, 6, 5, 4, 3, 2, 1])
        own = np.arange(8)
        pull = 0.4 * (found.best != own)[:, None] * (X - X0[found.best])
        pull += 0.2 * (found.degree != own)[:, None] * (X - X0[found.degree])
        weights, strengths = anchors(found, l_n=0.4, l_d=0.2)
        np.testing.assert_allclose(strengths[:, None] * (X - weights @ X0), pull, atol=1e-14)

    @pytest.mark.parametrize(
        ("strengths", "message"),
        [
            ({"l_n": -1.0, "l_d": 2.0}, r"strategy.l_n must be at least 0 and finite; got -1.0"),
            ({"l_n": 1.0, "l_d": np.inf}, r"strategy.l_d must be at least 0 and finite; got inf"),
            ({"l_n": 0.0, "l_d": 0.0}, r"strategy.l_n \+ strategy.l_d must be above 0; got 0 \+ 0"),
        ],
    )
    def test_errors(self, strengths: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            anchors(Leaders(np.arange(2), np.arange(2)), **strengths)


class TestDecay:
    def test_by_hand(self) -> None:
        assert [decay(0.4, 0.5, t) for t in range(3)] == [0.4, 0.2, 0.1]
        assert decay(0.3, 1.0, 1000) == 0.3

    @pytest.mark.parametrize("rate", [0.0, 1.1, np.nan])
    def test_refuses_a_rate_out_of_range(self, rate: float) -> None:
        with pytest.raises(ValueError, match=rf"strategy.decay must lie in \(0, 1\]; got {rate}"):
            decay(0.3, rate, 0)


def test_a_closed_gate_leaves_a_row_to_the_base_rule() -> None:
    W, losses = metropolis(topology.g0()), [8, 7, 6, 5, 4, 3, 2, 1]
    weights = {"c1": 0.3, "c2": 0.0, "p1": 0.1, "p2": 0.0}
    plain = operator(W, topology.g0(), losses, **weights)
    gate = [True, False] * 4
    found = operator(W, topology.g0(), losses, **weights, gate=gate)
    np.testing.assert_array_equal(found[::2], plain[::2])
    np.testing.assert_array_equal(found[1::2], W[1::2])
    with_degree = operator(W, topology.g0(), losses, **DEFAULTS, gate=[False] * 8)
    np.testing.assert_array_equal(with_degree, operator(W, topology.g0(), losses, **DEFAULTS | {"c1": 0.0, "p1": 0.0}))
