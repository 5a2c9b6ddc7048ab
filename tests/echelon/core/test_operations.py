"""A mean is what its matrix of equal rows would be, without the matrix."""

import tracemalloc

import numpy as np
import pytest

from echelon.core import operations
from echelon.core.mixing import Mean


def drawn(workers: int) -> tuple[Mean, np.ndarray]:
    generator = np.random.default_rng(workers)
    rows = generator.standard_normal((workers, 60), dtype=np.float32)
    return Mean(generator.dirichlet(np.ones(workers))), rows


@pytest.mark.parametrize("workers", [1, 2, 9, 100])
def test_a_mean_is_its_matrix(workers: int) -> None:
    mean, rows = drawn(workers)
    assert operations.mean_drift(mean, rows, 50) == pytest.approx(operations.mean_drift(mean.toarray(), rows, 50))
    mixed, by_matrix = rows.copy(), rows.copy()
    operations.mix(mean, mixed, 50)
    operations.mix(mean.toarray(), by_matrix, 50)
    np.testing.assert_allclose(mixed, by_matrix, atol=1e-6)
    np.testing.assert_array_equal(mixed[:, 50:], rows[:, 50:])


def test_a_mean_of_many_workers_takes_no_matrix() -> None:
    mean, rows = drawn(3000)  # whose matrix would take 72 MB
    tracemalloc.start()
    try:
        operations.combine(mean, rows, {0: rows[1].copy()}, 60, "adapt_then_combine")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert (rows == rows[0]).all()
