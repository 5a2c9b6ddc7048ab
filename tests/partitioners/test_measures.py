import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from partitioners import measures
from partitioners.submodular import kernel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1500, 5)).astype(np.float32)
OWNER = np.sort(RNG.choice(4, size=1500, p=[0.5, 0.3, 0.1, 0.1]))
OWNER[OWNER == 3] = 2  # block 3 is empty
X[OWNER == 2] += 0.5
S = kernel.similarity(X, bandwidth=8.0)


def found() -> np.ndarray:
    return measures.mmd2(measures.compare_rows(S, OWNER, 4)[0], S.mean(axis=1, dtype=np.float64), OWNER)


def test_mmd2_is_the_definition() -> None:
    s = S.astype(np.float64)
    for block in range(3):
        mine = np.equal(OWNER, block)
        weight = mine / mine.sum() - np.full(1500, 1 / 1500)
        assert found()[block] == pytest.approx(weight @ s @ weight, rel=1e-6)
    assert np.isnan(found()[3])
    assert found()[2] > 5 * found()[0]


def test_expectation_for_random_blocks_is_the_mean_over_all_of_them() -> None:
    s = S[:7, :7].astype(np.float64)
    every = []
    for block in itertools.combinations(range(7), 3):
        weight = np.isin(np.arange(7), block) / 3 - 1 / 7
        every.append(weight @ s @ weight)

    expected = measures.random_mmd2([3, 7], 7, float(s.mean()))

    assert expected == pytest.approx([np.mean(every), 0.0], abs=1e-9)


def test_coverage_is_facility_location_per_sample() -> None:
    _, covered = measures.compare_rows(S, OWNER, 4)

    assert covered[1] == pytest.approx(sum(max(S[v, OWNER == 1]) for v in range(1500)) / 1500)
    assert covered[3] == 0


def test_fourier_features_estimate_mmd2() -> None:
    means = measures.fourier_means(X, 8.0, OWNER, 4, np.random.default_rng(1))

    estimate = np.square(means[:-1] - means[-1]).sum(axis=1)

    np.testing.assert_allclose(estimate[:3], found()[:3], rtol=0.15)
    assert np.isnan(estimate[3])
    assert np.square(means[-1]).sum() == pytest.approx(S.mean(), rel=0.1)


def test_neighbour_accuracy_leaves_the_query_itself_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_COLUMNS", 400)
    labels = (X[:, 0] > 0).astype(np.int64)
    queries = np.array([0, 7, 450, 800, 1399, 1499])
    distances = cdist(X[queries].astype(np.float64), X)
    distances[np.arange(6), queries] = np.inf

    accuracies = measures.neighbour_accuracy(X, labels, [OWNER, OWNER[::-1]], 4, queries)

    for owner, accuracy in zip((OWNER, OWNER[::-1]), accuracies, strict=True):
        nearest = [np.flatnonzero(owner == b)[distances[:, owner == b].argmin(axis=1)] for b in range(3)]
        assert accuracy.tolist() == [(labels[near] == labels[queries]).mean() for near in nearest] + [0.0]
