"""Partial work: hand-computed examples and properties (He & Dube, arXiv 2211.00889)."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from echelon.algorithms.partial import (
    Cursor,
    Estimator,
    blend,
    budget,
    combine,
    minibatch_sizes,
    sample_order,
    scales,
    upcoming,
)

NAN, INF = float("nan"), float("inf")
SLOW_FLEET = np.array([1, 1, 1, 1, 1, 1, 2, 4], dtype=float)  # seconds per mini-batch
M = 8

Floats = NDArray[np.float64]


def finished(tau: Floats, seconds: float, target: int = M) -> NDArray[np.int64]:
    """M_i = max(1, min(M, floor(T / tau_i))), the counts under a virtual clock."""
    return np.clip(np.floor(seconds / tau + 1e-9), 1, target).astype(np.int64)


class TestBudget:
    def test_fastest_is_the_first_to_finish(self) -> None:
        assert budget([3.0, 1.0, 2.0], [2, 8, 3]) == 6.0

    @pytest.mark.parametrize(("quorum", "seconds"), [(0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.75, 3.0), (1.0, 4.0)])
    def test_quorum_is_the_fraction_that_has_finished(self, quorum: float, seconds: float) -> None:
        assert budget([4.0, 3.0, 2.0, 1.0], 1, "quorum", quorum=quorum) == seconds

    def test_a_quorum_that_is_exact_in_decimals_does_not_round_up(self) -> None:
        assert budget(np.arange(1.0, 11.0), 1, "quorum", quorum=0.7) == 7.0
        assert budget(np.arange(1.0, 101.0), 1, "quorum", quorum=0.29) == 29.0

    def test_deadline_needs_no_estimates(self) -> None:
        assert budget([NAN, NAN], [8, 8], "deadline", deadline=2.5) == 2.5

    def test_workers_of_unknown_speed_are_ignored(self) -> None:
        assert budget([NAN, 2.0, 3.0], 4) == 8.0
        assert budget([NAN, 2.0, 3.0], 4, "quorum", quorum=1.0) == 12.0

    def test_no_known_speed_means_no_limit(self) -> None:
        assert budget([NAN, NAN], [8, 8]) == INF

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"trigger": "first"}, r"work\.trigger must be one of fastest, quorum, deadline; got first"),
            ({"trigger": "deadline"}, r"work\.trigger=deadline needs work\.deadline, in seconds; got null"),
            ({"trigger": "deadline", "deadline": 0.0}, r"work\.deadline must be a positive .*; got 0\.0"),
            ({"trigger": "deadline", "deadline": NAN}, r"work\.deadline must be a positive .*; got nan"),
            ({"trigger": "quorum", "quorum": 0.0}, r"work\.quorum must lie in \(0, 1\]; got 0\.0"),
            ({"trigger": "quorum", "quorum": 1.1}, r"work\.quorum must lie in \(0, 1\]; got 1\.1"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            budget([1.0], [1], **options)  # type: ignore[arg-type]


class TestThePapersExample:
    """Constant speeds tau = (1,1,1,1,1,1,2,4), M = 8: 54 of 64 mini-batches in 8 instead of 32 units of time."""

    def test_counts(self) -> None:
        seconds = budget(SLOW_FLEET, M)
        assert seconds == 8.0
        assert finished(SLOW_FLEET, seconds).tolist() == [8, 8, 8, 8, 8, 8, 4, 2]
        assert finished(SLOW_FLEET, seconds).sum() == 54

    def test_throughput_gain(self) -> None:
        seconds = budget(SLOW_FLEET, M)
        blocking = len(SLOW_FLEET) * M / (M * SLOW_FLEET.max())
        non_blocking = finished(SLOW_FLEET, seconds).sum() / seconds
        assert non_blocking / blocking == 3.375


class TestEstimators:
    """Two workers, M = 4: S = ((6, 0), (1, 2)), M_i = (3, 1)."""

    sums = np.array([[6.0, 0.0], [1.0, 2.0]])
    counts = np.array([3, 1])

    @pytest.mark.parametrize(
        ("estimator", "direction"),
        [
            ("nominal", [7 / 8, 2 / 8]),
            ("finished", [7 / 4, 2 / 4]),
            ("per_worker", [(6 / 3 + 1 / 1) / 2, (0 / 3 + 2 / 1) / 2]),
            ("expected", [(6 / 2 + 1 / 2) / 2, (0 / 2 + 2 / 2) / 2]),
        ],
    )
    def test_by_hand(self, estimator: Estimator, direction: list[float]) -> None:
        got = combine(self.sums, self.counts, 4, estimator, expected=[2.0, 2.0])
        np.testing.assert_allclose(got, direction, rtol=1e-15)

    def test_a_worker_without_a_minibatch_counts_in_nominal_and_expected_only(self) -> None:
        sums, counts = np.array([[4.0], [0.0]]), np.array([2, 0])
        assert combine(sums, counts, 4, "nominal") == 4 / 8
        assert combine(sums, counts, 4, "finished") == 4 / 2
        assert combine(sums, counts, 4, "per_worker") == 4 / 2
        assert combine(sums, counts, 4, "expected", expected=[4.0, 1.0]) == (4 / 4) / 2

    @pytest.mark.parametrize("estimator", get_args(Estimator))
    def test_no_worker_finished_a_minibatch(self, estimator: Estimator) -> None:
        assert combine(np.zeros((2, 1)), [0, 0], 4, estimator, expected=[0.0, 0.0]) == 0

    def test_targets_may_differ(self) -> None:
        np.testing.assert_allclose(scales([8, 2], [8, 4], "nominal"), [1 / 8, 1 / 4])

    def test_finished_with_unequal_targets(self) -> None:
        """Targets (8, 4), finished (4, 4): the nominal direction times 12 / 8, so that the large batch counts once."""
        np.testing.assert_allclose(scales([4, 4], [8, 4], "finished"), [12 / 8 / 8, 12 / 8 / 4])

    @pytest.mark.parametrize("estimator", get_args(Estimator))
    @given(st.lists(st.integers(1, 500), min_size=1, max_size=9))
    def test_with_nobody_late_all_are_nominal(self, estimator: Estimator, targets: list[int]) -> None:
        nominal = scales(targets, targets)
        assert (scales(targets, targets, estimator, expected=targets) == nominal).all()

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match=r"work\.estimator must be one of nominal, .*; got best"):
            scales([1], 1, "best")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"needs the running means"):
            scales([1], 1, "expected")

    @given(st.lists(st.integers(1, 8), min_size=1, max_size=9), st.integers(0, 2**31))
    def test_nominal_is_finished_times_the_finished_share(self, counts: list[int], seed: int) -> None:
        sums = np.random.default_rng(seed).normal(size=(len(counts), 3))
        share = sum(counts) / (len(counts) * M)
        nominal, by_finished = combine(sums, counts, M), combine(sums, counts, M, "finished")
        np.testing.assert_allclose(nominal, by_finished * share, rtol=1e-12)

    @pytest.mark.parametrize("estimator", get_args(Estimator))
    @given(workers=st.integers(1, 9), seed=st.integers(0, 2**31))
    def test_without_stragglers_all_are_the_large_batch(self, estimator: Estimator, workers: int, seed: int) -> None:
        sums = np.random.default_rng(seed).normal(size=(workers, 3))
        got = combine(sums, np.full(workers, M), M, estimator, expected=np.full(workers, float(M)))
        np.testing.assert_allclose(got, sums.sum(axis=0) / (workers * M), rtol=1e-12)


class TestBias:
    """Seeded Monte Carlo: workers with different noisy gradients g_i finish random counts M_i."""

    gradients = np.array([1.0, -2.0, 4.0, 3.0])
    draws = 3_000

    def mean_direction(self, estimator: Estimator, least: int, gradients: Floats) -> tuple[float, float]:
        rng = np.random.default_rng(5)
        workers = len(gradients)
        high = np.array([8, 8, 4, 2])  # slower workers finish less
        counts = rng.integers(least, high + 1, size=(self.draws, workers))
        sums = counts * gradients + np.sqrt(counts) * rng.normal(size=counts.shape)
        expected = (least + high) / 2
        directions = np.array(
            [combine(s[:, None], c, M, estimator, expected=expected)[0] for s, c in zip(sums, counts, strict=True)]
        )
        return float(directions.mean()), 5 * float(directions.std()) / np.sqrt(self.draws)

    @pytest.mark.parametrize(("estimator", "least"), [("per_worker", 1), ("expected", 1), ("expected", 0)])
    def test_unbiased_for_unlike_shards(self, estimator: Estimator, least: int) -> None:
        mean, tolerance = self.mean_direction(estimator, least, self.gradients)
        assert mean == pytest.approx(self.gradients.mean(), abs=tolerance)

    @pytest.mark.parametrize(("estimator", "least"), [("nominal", 1), ("finished", 1), ("per_worker", 0)])
    def test_biased_for_unlike_shards(self, estimator: Estimator, least: int) -> None:
        """Slow workers' data is under-represented; tested so that the test above can fail."""
        gradients = self.gradients if least else np.array([1.0, -2.0, 4.0, 30.0])
        mean, tolerance = self.mean_direction(estimator, least, gradients)
        assert abs(mean - gradients.mean()) > 4 * tolerance

    @pytest.mark.parametrize("estimator", ["finished", "per_worker", "expected"])
    def test_unbiased_for_iid_shards(self, estimator: Estimator) -> None:
        mean, tolerance = self.mean_direction(estimator, 1, np.full(4, 2.0))
        assert mean == pytest.approx(2.0, abs=tolerance)


class TestCursor:
    def test_by_hand(self) -> None:
        assert Cursor(0, 0).advance(3, 10) == Cursor(0, 3)
        assert Cursor(0, 8).advance(2, 10) == Cursor(1, 0)
        assert Cursor(2, 8).advance(25, 10) == Cursor(5, 3)
        assert Cursor(1, 4).advance(0, 10) == Cursor(1, 4)

    def test_order_is_a_permutation_of_its_own_for_every_worker_and_pass(self) -> None:
        orders = [sample_order(1, rank, epoch, 20).tolist() for rank in range(2) for epoch in range(2)]
        assert all(sorted(order) == list(range(20)) for order in orders)
        assert len({tuple(order) for order in orders}) == 4

    def test_upcoming_goes_over_pass_boundaries(self) -> None:
        got = upcoming(1, 0, Cursor(3, 8), 10, 15)
        passes = [sample_order(1, 0, epoch, 10) for epoch in (3, 4, 5)]
        np.testing.assert_array_equal(got, np.concatenate([passes[0][8:], passes[1], passes[2][:3]]))

    def test_nothing_to_come(self) -> None:
        assert upcoming(1, 0, Cursor(), 10, 0).shape == (0,)

    @settings(max_examples=60)
    @given(
        shard=st.integers(1, 23),
        rounds=st.lists(st.integers(0, 40), max_size=12),
        seed=st.integers(0, 2**32),
        rank=st.integers(0, 5),
    )
    def test_nothing_skipped_nothing_twice_however_the_passes_are_cut(
        self, shard: int, rounds: list[int], seed: int, rank: int
    ) -> None:
        cursor, seen = Cursor(), []
        for done in rounds:
            # A worker is handed more than it finishes: the rest is for the next round.
            seen.extend(upcoming(seed, rank, cursor, shard, done + 7)[:done].tolist())
            cursor = cursor.advance(done, shard)
        assert (cursor.epoch, cursor.position) == divmod(sum(rounds), shard)
        for start in range(0, len(seen), shard):
            one_pass = seen[start : start + shard]
            assert one_pass == sample_order(seed, rank, start // shard, shard)[: len(one_pass)].tolist()


@pytest.mark.parametrize(
    ("batch", "minibatch", "sizes"),
    [(8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 4, [3]), (4, 4, [4]), (1, 1, [1]), (0, 4, [])],
)
def test_minibatch_sizes(batch: int, minibatch: int, sizes: list[int]) -> None:
    assert minibatch_sizes(batch, minibatch) == sizes


class TestMemory:
    sums = np.array([[8.0], [3.0], [0.0], [0.0], [2.0]])
    counts = np.array([4, 1, 0, 0, 1])
    memory = np.array([[7.0], [5.0], [6.0], [np.nan], [np.nan]])

    def test_by_hand(self) -> None:
        """All done; a quarter of 3 and three of 5; nothing, with and without a memory; a first gradient."""
        found = blend(self.sums, self.counts, 4, self.memory)[:, 0]
        np.testing.assert_allclose(found, [2.0, 0.25 * 3 + 0.75 * 5, 6.0, np.nan, 2.0])

    def test_the_direction_is_their_mean(self) -> None:
        assert combine(self.sums, self.counts, 4, "memory", memory=self.memory) == (2 + 4.5 + 6 + 0 + 2) / 5

    def test_targets_by_worker(self) -> None:
        assert blend([[2.0], [2.0]], [2, 2], [2, 4], [[9.0], [9.0]])[:, 0].tolist() == [1.0, 0.5 * 1 + 0.5 * 9]
