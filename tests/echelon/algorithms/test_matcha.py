import itertools
import warnings

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echelon.algorithms import matcha, topology
from echelon.algorithms.matcha import MatchaPlan, active, active_graph, mixing_matrix, solve
from echelon.algorithms.mixing import laplacian, restrict

G0 = topology.matchings(topology.g0())
RING = topology.matchings(topology.build("ring", 8))
PLAN = MatchaPlan(np.array([1.0, 0.5, 0.0, 0.25, 0.75]), alpha=0.4, rho=0.6, lambda_2=0.5, gap=0.0)


def expected_laplacian(matchings: list[list[tuple[int, int]]], p: np.ndarray, n: int) -> np.ndarray:
    graph = nx.empty_graph(n)
    for matching, probability in zip(matchings, p, strict=True):
        graph.add_edges_from(matching, weight=probability)
    return nx.laplacian_matrix(graph, nodelist=range(n)).toarray()  # type: ignore[no-any-return]


class TestSolve:
    @pytest.mark.parametrize(
        ("matchings", "budget", "lambda_2", "alpha", "rho"),
        [
            (G0, 1.0, 0.6700, 0.28571, 0.65378),
            (G0, 0.5, 0.5612, 0.39643, 0.64397),
            (RING, 1.0, 0.5858, 0.43613, 0.55431),
            (RING, 0.5, 0.2929, 0.60737, 0.78391),
        ],
    )
    def test_reference_values(
        self, matchings: list[list[tuple[int, int]]], budget: float, lambda_2: float, alpha: float, rho: float
    ) -> None:
        plan = solve(matchings, 8, budget)
        assert plan.lambda_2 == pytest.approx(lambda_2, abs=5e-5)
        assert plan.alpha == pytest.approx(alpha, abs=1e-5)
        assert plan.rho == pytest.approx(rho, abs=1e-5)
        assert 0 <= plan.gap <= 1e-7

    def test_pair_by_hand(self) -> None:
        # One edge, p: rho(a) = 1 - 4 a p + 4 a^2 p is least at a = 1/2, where it is 1 - p; lambda_2 = 2 p.
        plan = solve([[(0, 1)]], 2, 0.3)
        np.testing.assert_allclose(plan.probabilities, [0.3])
        assert (plan.lambda_2, plan.alpha, plan.rho) == pytest.approx((0.6, 0.5, 0.7))

    def test_star_shares_the_budget_equally(self) -> None:
        # Each leaf hangs on one edge, so by symmetry and concavity p = cb, and lambda_2 = cb.
        plan = solve(topology.matchings(topology.build("star", 12)), 12, 0.3)
        assert plan.lambda_2 == pytest.approx(0.3, rel=1e-7)
        np.testing.assert_allclose(plan.probabilities, 0.3, rtol=1e-5)

    @given(st.integers(2, 10), st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.8, 1.0]), st.integers(0, 50))
    @settings(max_examples=25, deadline=None)
    def test_feasible_optimal_and_consistent(self, n: int, budget: float, seed: int) -> None:
        matchings = topology.matchings(topology.build("er", n, p=0.5, seed=seed))
        plan = solve(matchings, n, budget)
        p = plan.probabilities
        assert p.min() >= 0
        assert p.max() <= 1
        assert p.sum() <= budget * len(matchings) * (1 + 1e-12)
        assert 0 <= plan.gap <= 1e-7
        assert plan.lambda_2 == pytest.approx(np.linalg.eigvalsh(expected_laplacian(matchings, p, n))[1], rel=1e-9)
        generator = np.random.default_rng(seed)
        for _ in range(30):
            other = np.minimum(p + generator.normal(0, 0.1 * budget, len(p)).clip(-p), 1)
            other *= min(1, budget * len(matchings) / other.sum())
            reached = np.linalg.eigvalsh(expected_laplacian(matchings, other, n))[1]
            assert reached <= plan.lambda_2 * (1 + plan.gap) + 1e-12

    def test_the_gap_stays_honest_when_the_search_is_cut_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        optimum = solve(G0, 8, 0.5).lambda_2
        monkeypatch.setattr(matcha, "_ROUNDS", 6)
        plan = solve(G0, 8, 0.5)
        assert plan.gap > 1e-3
        assert plan.lambda_2 < optimum <= plan.lambda_2 * (1 + plan.gap)

    def test_rho_is_the_contraction_of_the_mean_square(self) -> None:
        # E[W'W] - J over all 32 outcomes of the five matchings of G0.
        plan = solve(G0, 8, 0.5)
        second = np.zeros((8, 8))
        for outcome in itertools.product([False, True], repeat=5):
            on = np.array(outcome)
            W = mixing_matrix(plan, G0, on, 8)
            second += np.prod(np.where(on, plan.probabilities, 1 - plan.probabilities)) * W @ W
        assert plan.rho == pytest.approx(np.linalg.eigvalsh(second - 1 / 8)[-1], abs=1e-12)

    @pytest.mark.parametrize("name", ["ring", "star", "complete", "torus"])
    @pytest.mark.parametrize("n", [2, 3, 8])
    def test_budget_one_is_the_laplacian_rule(self, name: str, n: int) -> None:
        graph = topology.build(name, n)
        matchings = topology.matchings(graph)
        plan = solve(matchings, n, 1.0)
        np.testing.assert_array_equal(plan.probabilities, np.ones(len(matchings)))
        everything = active(plan, 0, 0)
        assert everything.all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # negative self weights of the star
            expected = laplacian(graph)
        np.testing.assert_allclose(mixing_matrix(plan, matchings, everything, n), expected, atol=1e-7)

    def test_one_worker_has_an_empty_plan(self) -> None:
        plan = solve([], 1, 0.5)
        assert len(plan.probabilities) == 0
        on = active(plan, 0, 3)
        np.testing.assert_array_equal(mixing_matrix(plan, [], on, 1), [[1.0]])

    def test_is_deterministic(self) -> None:
        np.testing.assert_array_equal(solve(G0, 8, 0.5).probabilities, solve(G0, 8, 0.5).probabilities)

    @pytest.mark.parametrize(
        ("matchings", "n", "budget", "message"),
        [
            (G0, 8, 0.0, r"strategy.communication_budget must lie in \(0, 1\]; got 0.0"),
            (G0, 8, 1.5, r"strategy.communication_budget must lie in \(0, 1\]; got 1.5"),
            (G0, 8, np.nan, r"strategy.communication_budget must lie in \(0, 1\]; got nan"),
            (
                [[(0, 1)], [(2, 3)]],
                5,
                0.5,
                r"union of the matchings must be connected; got 3 components: \[0, 1\], \[2, 3\], \[4\]",
            ),
            ([], 2, 0.5, r"must be connected; got 2 components: \[0\], \[1\]"),
            ([[(0, 1)], [(1, 3)]], 3, 0.5, r"must join ranks in 0..2; got \[\(1, 3\)\] as matching 1"),
            ([[(0, 1), (1, 2)]], 3, 0.5, r"must be node-disjoint; got \[\(0, 1\), \(1, 2\)\] as matching 0"),
        ],
    )
    def test_errors(self, matchings: list[list[tuple[int, int]]], n: int, budget: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            solve(matchings, n, budget)


class TestActive:
    def test_draws_by_round_without_state(self) -> None:
        forwards = [active(PLAN, 3, t).tolist() for t in range(50)]
        backwards = [active(PLAN, 3, t).tolist() for t in reversed(range(50))]
        assert forwards == backwards[::-1]
        assert forwards != [active(PLAN, 4, t).tolist() for t in range(50)]

    def test_frequencies_are_the_probabilities(self) -> None:
        share = np.mean([active(PLAN, 0, t) for t in range(2000)], axis=0)
        np.testing.assert_allclose(share, PLAN.probabilities, atol=0.04)
        assert (share[0], share[2]) == (1, 0)


class TestMixingMatrix:
    def test_by_hand(self) -> None:
        W = mixing_matrix(PLAN, G0, np.array([False, True, False, False, True]), 8)
        expected = np.eye(8)
        for i, j in [(1, 7), (3, 6), (1, 3)]:
            expected[[i, j], [i, j]] -= 0.4
            expected[[i, j], [j, i]] += 0.4
        np.testing.assert_allclose(W, expected, atol=1e-15)

    def test_doubly_stochastic_with_and_without_absentees(self) -> None:
        for outcome in itertools.product([False, True], repeat=5):
            W = mixing_matrix(PLAN, G0, np.array(outcome), 8)
            for matrix in (W, restrict(W, [0, 1, 3, 6, 7])):
                np.testing.assert_array_equal(matrix, matrix.T)
                np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-14)

    def test_active_graph_has_the_active_edges_on_all_ranks(self) -> None:
        graph = active_graph(G0, np.array([False, True, False, False, True]), 8)
        assert list(graph.nodes) == list(range(8))
        assert sorted(graph.edges) == [(1, 3), (1, 7), (3, 6)]
