import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echelon.algorithms import topology
from echelon.algorithms.mixing import metropolis
from echelon.algorithms.robust import clip, radii, trimmed_mean

RING = topology.build("ring", 5)


def distances(Y: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(Y[:, None] - Y[None], axis=2))


class TestRadii:
    def test_are_lower_medians(self) -> None:
        graph = nx.Graph([(0, 1), (0, 2), (0, 3), (1, 2)])
        graph.add_node(4)
        d = distances(np.array([[0.0], [1.0], [5.0], [9.0], [2.0]]))
        np.testing.assert_array_equal(radii(d, graph), [5.0, 1.0, 4.0, 9.0, np.inf])

    def test_one_of_two_neighbours_cannot_raise_it(self) -> None:
        Y = np.array([[0.0], [1.0], [1e9], [1.0], [0.0]])
        assert radii(distances(Y), RING)[[1, 3]].tolist() == [1.0, 1.0]


class TestClip:
    @given(st.integers(0, 10_000))
    @settings(max_examples=40, deadline=None)
    def test_is_the_papers_step(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        Y, radius, W = generator.normal(size=(5, 3)), generator.uniform(0, 3, 5), metropolis(RING)
        expected = Y.copy()
        for i in range(5):
            for j in range(5):
                difference = Y[j] - Y[i]
                length = np.linalg.norm(difference)
                expected[i] += W[i, j] * difference * (min(1.0, radius[i] / length) if length else 1.0)
        M = clip(W, distances(Y), radius)
        np.testing.assert_allclose(M @ Y, expected, atol=1e-12)
        np.testing.assert_allclose(M.sum(axis=1), 1)

    def test_within_the_radius_nothing_changes(self) -> None:
        W = metropolis(RING)
        np.testing.assert_allclose(clip(W, np.ones((5, 5)), np.full(5, 1.0)), W, atol=1e-15)

    def test_a_liar_moves_a_worker_by_no_more_than_its_weight_times_the_radius(self) -> None:
        Y = np.array([[0.0], [1.0], [1e12], [1.0], [0.0]])
        W = metropolis(RING)
        d = distances(Y)
        mixed = clip(W, d, radii(d, RING)) @ Y
        assert abs(mixed[[0, 1, 3, 4]]).max() <= 1 + 1 / 3


class TestTrimmedMean:
    @pytest.mark.parametrize("trim", [0, 1, 2])
    def test_is_the_mean_of_the_middle(self, trim: int) -> None:
        rows = np.random.default_rng(0).normal(size=(5, 300_000)).astype(np.float32)
        expected = np.sort(rows, axis=0)[trim : 5 - trim].mean(axis=0, dtype=np.float64)
        np.testing.assert_array_equal(trimmed_mean(rows, trim), expected.astype(np.float32))

    def test_stays_within_the_honest_values(self) -> None:
        honest = np.random.default_rng(0).normal(size=(7, 50)).astype(np.float32)
        for lie in (0.0, 1e9, -1e9):
            found = trimmed_mean(np.vstack([honest, np.full((1, 50), lie, np.float32)]), 1)
            assert (honest.min(axis=0) <= found).all()
            assert (found <= honest.max(axis=0)).all()

    def test_something_must_be_left(self) -> None:
        with pytest.raises(ValueError, match="trim must be at least 0 and below half of the 4 rows; got 2"):
            trimmed_mean(np.zeros((4, 1), np.float32), 2)
