"""What the base class validates, once, for every partitioner."""

from typing import ClassVar

import numpy as np
import pytest

from partitioners import Partitioner
from partitioners.base import Features, FloatArray, IntArray


class Recorder(Partitioner):
    """Keeps what it is handed."""

    def _partition(
        self, labels: IntArray, shares: FloatArray, rng: np.random.Generator, features: Features | None
    ) -> list[IntArray]:
        self.labels, self.shares, self.features = labels, shares, features
        return [np.arange(len(labels))]


class Comparing(Recorder):
    needs_features: ClassVar[bool] = True


RNG = np.random.default_rng(0)  # never drawn from


def test_labels_become_int64_and_ratios_shares() -> None:
    partitioner = Recorder()

    partitioner(np.array([1, 0, 1, 1], dtype=np.uint8), [2, 6], RNG)

    assert partitioner.labels.dtype == np.int64
    assert partitioner.labels.tolist() == [1, 0, 1, 1]
    assert partitioner.shares.tolist() == [0.25, 0.75]


def test_features_are_flattened_for_those_that_need_them() -> None:
    partitioner = Comparing()

    partitioner([0, 1], [1], RNG, np.arange(12).reshape(2, 3, 2))

    assert partitioner.features is not None
    assert partitioner.features.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_features_are_ignored_by_all_others() -> None:
    partitioner = Recorder()

    partitioner([0, 1], [1], RNG, [[np.nan], [np.inf], [0.0]])

    assert partitioner.features is None


def test_missing_features() -> None:
    with pytest.raises(ValueError, match=r"features are needed to compare samples.*got None"):
        Comparing()([0, 1], [1], RNG)


def test_a_subclass_must_implement_the_method() -> None:
    with pytest.raises(TypeError, match="_partition"):
        Partitioner()  # type: ignore[abstract]
