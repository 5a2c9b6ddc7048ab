import numpy as np
import pytest

from partitioners import DirichletPartitioner
from partitioners.dirichlet import fit

LABELS = np.repeat(np.arange(10), 200)


def mixes(alpha: float, seed: int = 0) -> np.ndarray:
    parts = DirichletPartitioner(alpha)(LABELS, (1,) * 10, np.random.default_rng(seed))
    return np.array([np.bincount(LABELS[part], minlength=10) / len(part) for part in parts])


def test_skew_falls_from_one_class_each_to_the_proportions_of_the_whole() -> None:
    variation = [
        np.mean([np.abs(mixes(alpha, seed) - 0.1).sum() / 2 for seed in range(3)]) / 10 for alpha in (1e-3, 0.1, 1, 1e6)
    ]

    assert variation[0] > 0.8  # one class each would be 0.9
    assert variation[0] > variation[1] > 0.5 > variation[2] > 0.2
    assert variation[3] < 0.005


def test_fit_is_the_table_with_the_wanted_sums_that_keeps_the_odds_ratios() -> None:
    table = np.array([[1.0, 2.0], [3.0, 1.0]])

    fitted = fit(table, [10, 20], [12, 18])

    np.testing.assert_allclose(fitted.sum(axis=1), [10, 20])
    np.testing.assert_allclose(fitted.sum(axis=0), [12, 18])
    assert fitted[0, 0] * fitted[1, 1] / (fitted[0, 1] * fitted[1, 0]) == pytest.approx(1 / 6)


def test_a_class_that_no_worker_drew_is_still_handed_out() -> None:
    fitted = fit(np.array([[1.0, 1.0], [0.0, 0.0]]), [10, 20], [15, 15])

    np.testing.assert_allclose(fitted, [[5, 5], [10, 10]])


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"partitioner\.alpha must be positive and finite; got {alpha}"):
        DirichletPartitioner(alpha)


@pytest.mark.parametrize("alpha", [1e300, 6e307, 1.7e308])
def test_the_largest_concentrations_give_the_proportions_of_the_whole(alpha: float) -> None:
    parts = DirichletPartitioner(alpha)(np.arange(60) % 3, [1, 1, 2], np.random.default_rng(0))
    assert [len(part) for part in parts] == [15, 15, 30]
    assert all(np.ptp(np.bincount(part % 3)) <= 1 for part in parts)
