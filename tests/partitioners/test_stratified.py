import numpy as np

from partitioners import StratifiedPartitioner


def test_a_class_with_fewer_samples_than_workers_is_missing_from_some_and_made_up_for_elsewhere() -> None:
    labels = np.repeat([0, 1, 2], [3, 3, 2])

    parts = StratifiedPartitioner()(labels, (1, 1, 1, 1), np.random.default_rng(0))

    counts = [np.bincount(labels[part], minlength=3).tolist() for part in parts]
    assert counts == [[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]


def test_samples_within_a_class_are_drawn_at_random() -> None:
    labels, rng = np.zeros(8, dtype=np.int64), np.random.default_rng(0)

    counts = sum(np.bincount(StratifiedPartitioner()(labels, (1, 3), rng)[0], minlength=8) for _ in range(1500))

    assert np.abs(np.asarray(counts) / 1500 - 2 / 8).max() < 0.05
