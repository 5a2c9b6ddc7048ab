import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioners import ByGroupPartitioner
from partitioners.by_group import assign


def test_groups_stay_whole() -> None:
    groups = np.array(["p3", "p1", "p2", "p1", "p3", "p3", "p0", "p0"])

    parts = ByGroupPartitioner(groups)(np.zeros(8, dtype=np.int64), (3, 5), np.random.default_rng(0))

    assert [groups[part].tolist() for part in parts] == [["p2", "p0", "p0"], ["p3", "p1", "p1", "p3", "p3"]]


def test_a_swap_mends_what_largest_first_leaves_uneven() -> None:
    owner = assign(np.array([8, 7, 6, 5, 4]), np.array([15.0, 15.0]))  # largest first alone: 17 and 13

    assert sorted(np.bincount(owner, weights=[8, 7, 6, 5, 4]).tolist()) == [15, 15]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=6), st.integers(2, 3))
def test_close_to_the_best_of_all_assignments(sizes: list[int], workers: int) -> None:
    targets = np.sum(sizes) * np.arange(1, workers + 1) / np.arange(1, workers + 1).sum()

    def error(owner: tuple[int, ...]) -> float:
        return float(np.square(np.bincount(owner, weights=sizes, minlength=workers) - targets).sum())

    best = min(error(owner) for owner in itertools.product(range(workers), repeat=len(sizes)))
    found = error(tuple(assign(np.array(sizes), targets)))

    assert best <= found <= 4 * best + max(sizes) ** 2


def test_groups_must_match_the_labels() -> None:
    with pytest.raises(ValueError, match=r"partitioner\.groups must be one per label \(4\); got shape \(3,\)"):
        ByGroupPartitioner([0, 1, 2])(np.zeros(4, dtype=np.int64), (1, 1), np.random.default_rng(0))


def test_too_few_groups() -> None:
    with pytest.raises(ValueError, match=r"partitioner\.groups must be at least as many as the 3 workers; got 2"):
        ByGroupPartitioner([0, 1, 1])(np.zeros(3, dtype=np.int64), (1, 1, 1), np.random.default_rng(0))
