import numpy as np
import pytest

from partitioners import ShardsPartitioner


def test_two_shards_that_match_the_classes_give_two_classes_each() -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 60))

    parts = ShardsPartitioner(2)(labels, (1,) * 5, np.random.default_rng(0))

    classes = [set(labels[part].tolist()) for part in parts]
    assert [len(held) for held in classes] == [2] * 5
    assert set.union(*classes) == set(range(10))


def test_shards_are_dealt_at_random() -> None:
    labels = np.repeat(np.arange(10), 60)

    dealt = {
        tuple(labels[ShardsPartitioner(1)(labels, (1,) * 10, np.random.default_rng(seed))[0]]) for seed in range(60)
    }

    assert len(dealt) > 8


def test_a_capable_workers_shards_are_longer() -> None:
    labels = np.repeat(np.arange(4), 100)

    parts = ShardsPartitioner(2)(labels, (1, 3), np.random.default_rng(0))

    assert [len(part) for part in parts] == [100, 300]


def test_number_of_shards_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"partitioner\.classes_per_worker must be at least 1; got 0"):
        ShardsPartitioner(0)
