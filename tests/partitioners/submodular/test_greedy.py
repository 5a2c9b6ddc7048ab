from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partitioners.submodular import greedy

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Value = Callable[[Floats, list[int]], float]

# Three clusters: 0-3, 4-6 and 7-9; similarity 1/2 inside a cluster and 0 between clusters.
CLUSTER = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
TEN = ((CLUSTER[:, None] == CLUSTER) / 2 + np.eye(10) / 2).astype(np.float32)


def covered(s: Floats, block: list[int]) -> float:
    return float(s[:, block].max(axis=1).sum()) if block else 0.0


def cut(s: Floats, block: list[int], lam: float = 1.0) -> float:
    return float(s[:, block].sum() - lam * s[np.ix_(block, block)].sum())


def naive(s: Floats, sizes: list[int], fill: bool, f: Value) -> tuple[list[int], list[float]]:
    """The definition: every candidate's f is recomputed at every step; ties as :func:`greedy.tie` has them."""
    owner, blocks = [-1] * len(s), [[] for _ in sizes]  # type: list[int], list[list[int]]
    slack = greedy.tie(len(s))
    for _ in range(sum(sizes)):
        opened = [b for b, size in enumerate(sizes) if len(blocks[b]) < size]
        keys = [len(blocks[b]) / sizes[b] if fill else f(s, blocks[b]) for b in opened]
        block = next(b for b, key in zip(opened, keys, strict=True) if key <= min(keys) + slack)
        left = [v for v in range(len(s)) if owner[v] < 0]
        values = [f(s, [*blocks[block], v]) for v in left]
        sample = next(v for v, value in zip(left, values, strict=True) if value >= max(values) - slack)
        blocks[block].append(sample)
        owner[sample] = block
    return owner, [f(s, block) for block in blocks]


def members(owner: Integers, block: int) -> list[int]:
    return np.flatnonzero(owner == block).tolist()


class TestTenPointsByHand:
    def test_facility_location(self) -> None:
        """f goes 2.5 (a sample of the large cluster), 4.5, 6.5 (one of each cluster), then 0.5 more for any sample."""
        owner, value = greedy.facility_location(TEN, np.array([5, 5]))

        assert members(owner, 0) == [0, 2, 4, 6, 7]
        assert members(owner, 1) == [1, 3, 5, 8, 9]
        assert value.tolist() == [7.5, 7.5]

    def test_graph_cut(self) -> None:
        """f goes 1.5, 2.5, 3.5 (one of each cluster), 4 (the large cluster again), 4 (any other cuts what it adds)."""
        owner, value = greedy.graph_cut(TEN, np.array([5, 5]))

        assert members(owner, 0) == [0, 2, 4, 6, 7]
        assert members(owner, 1) == [1, 3, 5, 8, 9]
        assert value.tolist() == [4.0, 4.0]

    def test_a_block_of_half_the_size_takes_part_until_it_is_full(self) -> None:
        owner, value = greedy.facility_location(TEN, np.array([4, 4, 2]))

        assert [members(owner, block) for block in range(3)] == [[0, 3, 4, 7], [1, 5, 8, 9], [2, 6]]
        assert value.tolist() == [7.0, 7.0, 4.5]

    def test_fill_serves_the_least_filled_block(self) -> None:
        """Served are 0 (0/2), 1 (0/6), 1 (1/6), 1 (2/6), 0 (1/2, before 3/6), and block 1 takes the rest."""
        owner, value = greedy.facility_location(TEN, np.array([2, 6]), fill=True)

        assert [members(owner, block) for block in range(2)] == [[0, 5], [1, 2, 3, 4, 6, 7]]
        assert value.tolist() == [4.5, 8.0]

    def test_samples_may_be_left_over(self) -> None:
        owner, value = greedy.facility_location(TEN, np.array([3]))

        assert np.flatnonzero(owner == 0).tolist() == [0, 4, 7]
        assert (np.delete(owner, [0, 4, 7]) == -1).all()
        assert value.tolist() == [6.5]


# The two candidates of the second block differ by 2e-11.
CLOSE = np.array([[1, 1.9539144e-08, 0], [1.9539144e-08, 1, 1.9556881e-08], [0, 1.9556881e-08, 1]], dtype=np.float32)


@st.composite
def problems(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], list[int], bool]:
    n = draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.normal(size=(n, draw(st.integers(1, 4))))
    if draw(st.booleans()):
        x = np.round(x)  # copies of samples: ties everywhere
    s = np.exp(-np.square(x[:, None] - x).sum(axis=2)).astype(np.float32)
    blocks = draw(st.integers(1, min(n, 6)))
    cuts = np.sort(rng.choice(np.arange(1, n), blocks - 1, replace=False))
    return s, np.diff([0, *cuts, n]).tolist(), draw(st.booleans())


@settings(max_examples=80, deadline=None)
@example((CLOSE, [1, 1, 1], False), None)
@given(problems(), st.sampled_from([None, 1.0, 0.5, 0.3]))
def test_fast_equals_naive(problem: tuple[npt.NDArray[np.float32], list[int], bool], lam: float | None) -> None:
    s, sizes, fill = problem
    if lam is None:
        owner, value = greedy.facility_location(s, np.array(sizes), fill)
        expected, f = naive(s.astype(np.float64), sizes, fill, covered)
    else:
        owner, value = greedy.graph_cut(s, np.array(sizes), fill, lam)
        expected, f = naive(s.astype(np.float64), sizes, fill, lambda s, block: cut(s, block, lam))

    assert owner.tolist() == expected
    np.testing.assert_allclose(value, f, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", ["facility_location", "graph_cut"])
def test_reported_values_are_those_of_the_definition_at_a_size_where_rounding_could_show(objective: str) -> None:
    x = np.random.default_rng(5).normal(size=(600, 8))
    s = np.exp(-np.square(x[:, None] - x).sum(axis=2) / 16).astype(np.float32)

    owner, value = getattr(greedy, objective)(s, np.array([150] * 4))

    f = covered if objective == "facility_location" else cut
    np.testing.assert_allclose(value, [f(s.astype(np.float64), members(owner, b)) for b in range(4)], rtol=1e-9)
