import warnings

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from echelon.algorithms import mixing, topology

DOUBLY_STOCHASTIC = [mixing.metropolis, mixing.uniform, mixing.laplacian]


@st.composite
def connected(draw: st.DrawFn) -> nx.Graph:
    return topology.build("er", draw(st.integers(1, 12)), p=0.5, seed=draw(st.integers(0, 1000)))


def quietly(rule, graph: nx.Graph) -> np.ndarray:  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return rule(graph)  # type: ignore[no-any-return]


class TestMatrices:
    def test_metropolis_by_hand(self) -> None:
        expected = np.array([[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]])
        np.testing.assert_allclose(mixing.metropolis(topology.build("path", 3)), expected, atol=1e-15)

    def test_uniform_by_hand(self) -> None:
        expected = np.array([[1 / 4] * 4, [1 / 4, 3 / 4, 0, 0], [1 / 4, 0, 3 / 4, 0], [1 / 4, 0, 0, 3 / 4]])
        np.testing.assert_allclose(mixing.uniform(topology.build("star", 4)), expected, atol=1e-15)

    def test_laplacian_by_hand(self) -> None:
        # Path of 3: eigenvalues 0, 1, 3, so alpha = 1/2.
        with pytest.warns(UserWarning, match=r"workers \[2\]"):
            mixing.laplacian(topology.build("edges", 5, edges=[(2, 0), (2, 1), (2, 3), (2, 4)]))
        W = mixing.laplacian(topology.build("path", 3))
        np.testing.assert_allclose(W, np.array([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]), atol=1e-15)

    def test_laplacian_of_g0_warns_and_names_the_worker(self) -> None:
        with pytest.warns(UserWarning, match=r"laplacian weights give workers \[1, 3, 7\] negative self weights"):
            W = mixing.laplacian(topology.g0())
        assert W[1, 1] == pytest.approx(1 - 5 * 2 / 7)

    def test_laplacian_of_a_matching_averages_its_pairs(self) -> None:
        W = mixing.laplacian(topology.build("edges", 3, edges=[(0, 2)]))
        np.testing.assert_allclose(W, np.array([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]), atol=1e-15)

    def test_complete_graph_averages(self) -> None:
        for rule in DOUBLY_STOCHASTIC:
            np.testing.assert_allclose(rule(topology.build("complete", 6)), np.full((6, 6), 1 / 6), atol=1e-15)

    @pytest.mark.parametrize("rule", DOUBLY_STOCHASTIC)
    @given(graph=connected())
    @settings(max_examples=40)
    def test_symmetric_doubly_stochastic_on_the_edges_and_contracting(self, rule, graph: nx.Graph) -> None:  # type: ignore[no-untyped-def]
        W = quietly(rule, graph)
        np.testing.assert_array_equal(W, W.T)
        np.testing.assert_allclose(W.sum(axis=0), 1, atol=1e-14)
        allowed = nx.to_numpy_array(graph, nodelist=range(len(graph))) + np.eye(len(graph))
        assert not W[allowed == 0].any()
        assert mixing.spectral_gap(W) > 0
        if rule is not mixing.laplacian:
            assert W.min() >= 0

    def test_laplacian_has_the_largest_gap_of_equal_weights(self) -> None:
        graph = topology.g0()
        L = nx.laplacian_matrix(graph, nodelist=range(8)).toarray()
        best = mixing.spectral_gap(quietly(mixing.laplacian, graph))
        assert all(mixing.spectral_gap(np.eye(8) - alpha * L) <= best + 1e-12 for alpha in np.linspace(0.01, 0.5, 50))

    @pytest.mark.parametrize("rule", DOUBLY_STOCHASTIC)
    def test_one_worker_is_left_alone(self, rule) -> None:  # type: ignore[no-untyped-def]
        np.testing.assert_array_equal(rule(topology.build("ring", 1)), [[1.0]])


class TestTarget:
    def test_by_hand(self) -> None:
        # Pair with p = (1, 3): offers 1/2 and 3/2, so 1/2 of worker 0 and 1/6 of worker 1.
        Q = mixing.target(topology.build("path", 2), [1, 3])
        np.testing.assert_allclose(Q, [[1 / 2, 1 / 2], [1 / 6, 5 / 6]], atol=1e-15)

    @given(connected(), st.integers(0, 100))
    @settings(max_examples=40)
    def test_keeps_the_weighted_mean_with_and_without_absentees(self, graph: nx.Graph, seed: int) -> None:
        generator = np.random.default_rng(seed)
        p = generator.uniform(0.1, 5, len(graph))
        Q = mixing.target(graph, p)
        for matrix in (Q, mixing.restrict(Q, np.flatnonzero(generator.random(len(graph)) < 0.6))):
            assert matrix.min() >= 0
            np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-14)
            np.testing.assert_allclose(p @ matrix, p, atol=1e-13)

    def test_equal_weights_are_metropolis(self) -> None:
        graph = topology.g0()
        np.testing.assert_allclose(mixing.target(graph, [2.0] * 8), mixing.metropolis(graph), atol=1e-15)

    def test_errors(self) -> None:
        graph = topology.build("ring", 3)
        with pytest.raises(ValueError, match=r"one per worker, shape \(3,\); got shape \(2,\)"):
            mixing.target(graph, [1, 2])
        for bad in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match=r"target weights must be positive and finite; got \[1.0, 1.0, "):
                mixing.target(graph, [1, 1, bad])


class TestRestrict:
    def test_by_hand(self) -> None:
        W = mixing.metropolis(topology.build("path", 3))
        expected = np.array([[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0], [0, 0, 1]])
        np.testing.assert_allclose(mixing.restrict(W, [0, 1]), expected)
        np.testing.assert_array_equal(mixing.restrict(W, [0, 2]), np.eye(3))
        np.testing.assert_array_equal(mixing.restrict(W, []), np.eye(3))

    @pytest.mark.parametrize("rule", DOUBLY_STOCHASTIC)
    def test_doubly_stochastic_for_every_subset_of_absentees(self, rule) -> None:  # type: ignore[no-untyped-def]
        W = quietly(rule, topology.g0())
        for subset in range(2**8):
            present = [rank for rank in range(8) if subset >> rank & 1]
            restricted = mixing.restrict(W, present)
            np.testing.assert_array_equal(restricted, restricted.T)
            np.testing.assert_allclose(restricted.sum(axis=0), 1, atol=1e-14)
            absent = [rank for rank in range(8) if rank not in present]
            np.testing.assert_array_equal(restricted[absent], np.eye(8)[absent])
            off_diagonal = ~np.eye(len(present), dtype=bool)
            block = np.ix_(present, present)
            np.testing.assert_array_equal(restricted[block][off_diagonal], W[block][off_diagonal])

    def test_all_present_changes_nothing_and_the_input_stays(self) -> None:
        W = mixing.metropolis(topology.g0())
        before = W.copy()
        np.testing.assert_allclose(mixing.restrict(W, range(8)), W, atol=1e-15)
        mixing.restrict(W, [1, 2])
        np.testing.assert_array_equal(W, before)


class TestSpectralGap:
    def test_known_values(self) -> None:
        assert mixing.spectral_gap(np.full((5, 5), 0.2)) == pytest.approx(1)
        assert mixing.spectral_gap(np.eye(4)) == 0
        assert mixing.spectral_gap(np.eye(1)) == 1
        # Ring of 8, metropolis: second eigenvalue (1 + 2 cos(2 pi / 8)) / 3.
        ring = mixing.metropolis(topology.build("ring", 8))
        assert mixing.spectral_gap(ring) == pytest.approx(1 - (1 + 2 * np.cos(np.pi / 4)) / 3)

    def test_negative_eigenvalues_count(self) -> None:
        assert mixing.spectral_gap(np.array([[0.1, 0.9], [0.9, 0.1]])) == pytest.approx(0.2)


class TestConsensusDistance:
    def test_by_hand(self) -> None:
        # Mean (1, 1); distances sqrt(2), sqrt(2).
        assert mixing.consensus_distance(np.array([[0, 2], [2, 0]], np.float32)) == pytest.approx(np.sqrt(2))

    def test_chunks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        X = np.random.default_rng(0).standard_normal((5, 1001), dtype=np.float32)
        expected = np.sqrt(((X - X.mean(axis=0, dtype=np.float64)) ** 2).sum() / 5)
        assert mixing.consensus_distance(X) == pytest.approx(expected, rel=1e-6)
        monkeypatch.setattr(mixing, "_SUM_CHUNK", 64)
        assert mixing.consensus_distance(X) == pytest.approx(expected, rel=1e-6)

    def test_equal_rows_are_at_distance_zero(self) -> None:
        assert mixing.consensus_distance(np.full((3, 7), 0.1, np.float32)) == 0
        assert mixing.consensus_distance(np.ones((1, 7), np.float32)) == 0

    def test_shrinks_by_the_spectral_gap(self) -> None:
        W = mixing.metropolis(topology.build("ring", 8))
        X = np.random.default_rng(1).standard_normal((8, 50), dtype=np.float32)
        before = mixing.consensus_distance(X)
        mixing.mix(W, X)
        assert mixing.consensus_distance(X) <= (1 - mixing.spectral_gap(W)) * before * (1 + 1e-6)


class TestMix:
    @pytest.mark.parametrize("chunk", [1, 64, 1 << 23])
    def test_is_the_matrix_product_on_the_leading_columns(self, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mixing, "_PRODUCT_CHUNK", chunk)
        W = mixing.metropolis(topology.g0())
        rows = np.random.default_rng(0).standard_normal((8, 101), dtype=np.float32)
        before = rows.copy()
        mixing.mix(W, rows, 90)
        np.testing.assert_allclose(rows[:, :90], W @ before[:, :90].astype(np.float64), atol=1e-6)
        np.testing.assert_array_equal(rows[:, 90:], before[:, 90:])

    @given(connected(), st.integers(0, 100))
    @settings(max_examples=30)
    def test_keeps_the_mean(self, graph: nx.Graph, seed: int) -> None:
        rows = np.random.default_rng(seed).standard_normal((len(graph), 40), dtype=np.float32)
        mean = rows.mean(axis=0, dtype=np.float64)
        mixing.mix(mixing.metropolis(graph), rows)
        np.testing.assert_allclose(rows.mean(axis=0, dtype=np.float64), mean, atol=1e-6)

    def test_identical_rows_are_a_fixed_point(self) -> None:
        rows = np.tile(np.random.default_rng(0).standard_normal(40, dtype=np.float32), (8, 1))
        before = rows.copy()
        mixing.mix(mixing.metropolis(topology.g0()), rows)
        np.testing.assert_allclose(rows, before, rtol=1e-6)

    def test_absent_rows_keep_their_bits(self) -> None:
        rows = np.random.default_rng(0).standard_normal((8, 40), dtype=np.float32)
        before = rows.copy()
        mixing.mix(mixing.restrict(mixing.metropolis(topology.g0()), [0, 1, 2, 5]), rows)
        np.testing.assert_array_equal(rows[[3, 4, 6, 7]], before[[3, 4, 6, 7]])
        assert not np.array_equal(rows[:3], before[:3])

    def test_one_worker_keeps_its_bits(self) -> None:
        rows = np.random.default_rng(0).standard_normal((1, 40), dtype=np.float32)
        before = rows.copy()
        mixing.mix(np.eye(1), rows)
        np.testing.assert_array_equal(rows, before)

    @pytest.mark.parametrize("chunk", [64, 1 << 18])
    def test_sparse_and_dense_products_agree(self, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mixing, "_SPARSE_CHUNK", chunk)
        W = mixing.metropolis(topology.build("ring", 64))
        rows = np.random.default_rng(0).standard_normal((64, 101), dtype=np.float32)
        results = []
        for matrix, share in ((W, 1.0), (W, 0.0), (csr_array(W), 0.0)):
            monkeypatch.setattr(mixing, "_SPARSE_SHARE", share)
            mixed = rows.copy()
            mixing.mix(matrix, mixed, 90)
            np.testing.assert_array_equal(mixed[:, 90:], rows[:, 90:])
            results.append(mixed)
        sparse, dense, given = results
        np.testing.assert_allclose(sparse, dense, atol=1e-6)
        np.testing.assert_array_equal(sparse, given)

    def test_absent_rows_keep_their_bits_in_a_sparse_product(self) -> None:
        rows = np.random.default_rng(0).standard_normal((100, 40), dtype=np.float32)
        before = rows.copy()
        mixing.mix(mixing.restrict(mixing.metropolis(topology.build("ring", 100)), range(0, 50)), rows)
        np.testing.assert_array_equal(rows[50:], before[50:])
        assert not np.array_equal(rows[:50], before[:50])

    def test_same_input_same_bits(self) -> None:
        W = mixing.metropolis(topology.g0())
        rows = np.random.default_rng(0).standard_normal((8, 10_007), dtype=np.float32)
        twin = rows.copy()
        mixing.mix(W, rows)
        mixing.mix(W, twin)
        np.testing.assert_array_equal(rows, twin)


class TestAverage:
    @given(st.integers(1, 40), st.integers(0, 100))
    @settings(max_examples=30)
    def test_is_the_product_with_equal_rows(self, n: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        weights = generator.dirichlet(np.ones(n))
        rows = generator.standard_normal((n, 33), dtype=np.float32)
        before = rows.copy()
        mixing.average(weights, rows, 30)
        np.testing.assert_allclose(rows[:, :30], np.tile(weights @ before[:, :30].astype(float), (n, 1)), atol=1e-6)
        np.testing.assert_array_equal(rows[:, 30:], before[:, 30:])
        assert mixing.consensus_distance(rows[:, :30]) == 0

    def test_chunks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = np.random.default_rng(0).standard_normal((5, 101), dtype=np.float32)
        expected = rows.mean(axis=0, dtype=np.float64)
        monkeypatch.setattr(mixing, "_PRODUCT_CHUNK", 64)
        mixing.average(np.full(5, 0.2), rows)
        np.testing.assert_allclose(rows, np.tile(expected, (5, 1)), atol=1e-6)


class TestMeanDrift:
    def test_is_how_far_the_mean_moves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mixing, "_PRODUCT_CHUNK", 64)
        generator = np.random.default_rng(0)
        W = generator.random((5, 5))
        W /= W.sum(axis=1, keepdims=True)
        rows = generator.standard_normal((5, 103), dtype=np.float32)
        expected = np.linalg.norm((W @ rows[:, :77]).mean(axis=0) - rows[:, :77].mean(axis=0))
        assert mixing.mean_drift(W, rows, 77) == pytest.approx(expected, rel=1e-5)

    def test_is_zero_for_doubly_stochastic_matrices(self) -> None:
        rows = np.random.default_rng(0).standard_normal((8, 100), dtype=np.float32)
        assert mixing.mean_drift(mixing.metropolis(topology.g0()), rows) == 0
