import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from partitioners.submodular import kernel

X = np.random.default_rng(0).normal(3.0, 2.0, size=(321, 7))


def test_gaussian_with_the_median_of_all_pairs() -> None:
    expected = np.exp(-cdist(X, X, "sqeuclidean") / np.median(pdist(X, "sqeuclidean")))

    s = kernel.similarity(X)

    assert s.dtype == np.float32
    np.testing.assert_allclose(s, expected, atol=2e-6)
    assert (s == s.T).all()
    assert (np.diag(s) == 1).all()


def test_gaussian_with_a_given_bandwidth() -> None:
    np.testing.assert_allclose(kernel.similarity(X, bandwidth=5.0), np.exp(-cdist(X, X, "sqeuclidean") / 5), atol=2e-6)


def test_cosine() -> None:
    np.testing.assert_allclose(kernel.similarity(X, "cosine"), 1 - cdist(X, X, "cosine") / 2, atol=2e-6)


def test_a_large_offset_costs_no_accuracy() -> None:
    np.testing.assert_allclose(kernel.similarity(X + 1e5), kernel.similarity(X), atol=1e-2)


def test_a_float64_offset_changes_nothing() -> None:
    """Time stamps in milliseconds: float32 holds them to 131 s."""
    stamped = X.astype(np.float64) + 1.7e12
    np.testing.assert_allclose(kernel.similarity(stamped), kernel.similarity(stamped - 1.7e12), atol=1e-6)


def test_pixels_are_read_as_they_are() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, size=(40, 12), dtype=np.uint8)

    np.testing.assert_allclose(kernel.similarity(pixels), kernel.similarity(pixels / 255), atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 40])
def test_median_of_an_even_and_an_odd_number_of_pairs(n: int) -> None:
    distances = kernel.squared_distances(kernel.embed(X[:n], "gaussian"))

    assert kernel.median_distance(distances) == np.median(distances[np.triu_indices(n, 1)].astype(np.float64))


def test_median_where_samples_are_copies() -> None:
    copies = np.zeros((5, 2))
    assert kernel.similarity(copies).tolist() == np.ones((5, 5)).tolist()
    assert kernel.similarity(copies[:1]).tolist() == [[1.0]]

    copies[0] = 2.0  # 6 pairs at 0, 4 at 8: median 0, mean over the whole matrix 8 * 8 / 25

    np.testing.assert_allclose(kernel.similarity(copies)[0, 1], np.exp(-8 / 2.56), rtol=1e-5)


def test_rows_equal_those_of_the_matrix() -> None:
    points, rows = kernel.embed(X, "gaussian"), np.array([300, 2, 17])

    np.testing.assert_allclose(
        kernel.squared_distances(points, rows), kernel.squared_distances(points)[rows], atol=1e-4
    )


def test_vectors_too_long_for_float32() -> None:
    with pytest.raises(ValueError, match=r"features must have squared lengths below 3e\+38: scale them down"):
        kernel.embed(X * 1e20, "gaussian")


def test_cosine_of_nothing() -> None:
    with pytest.raises(ValueError, match="features must not be all zero"):
        kernel.embed(np.zeros((3, 2)), "cosine")
