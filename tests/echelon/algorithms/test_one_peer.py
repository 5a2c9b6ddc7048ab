"""The one-peer schedules: by hand, and exact averaging for every number of workers."""

import numpy as np
import pytest

from echelon.algorithms.one_peer import OnePeer
from strategies import DPSGD, Partition
from tests.strategies import scripted


@pytest.mark.parametrize("n", range(1, 34))
def test_a_period_averages_exactly(n: int) -> None:
    schedule = OnePeer(n)
    product = np.eye(n)
    for index in range(schedule.period):
        matrix = schedule.matrix(index)
        assert (matrix == matrix.T).all()
        assert (matrix >= 0).all()
        np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-15)
        assert max(degree for _, degree in schedule.graph(index).degree) <= 1
        assert {tuple(pair) for pair in np.argwhere(np.triu(matrix, 1))} == set(schedule.graph(index).edges)
        product = matrix @ product
    np.testing.assert_allclose(product, 1 / n, rtol=1e-13)


def test_a_power_of_two_is_a_hypercube() -> None:
    """Round t pairs i with i xor 2^(t mod log2 N), W = (I + P) / 2."""
    schedule = OnePeer(8)
    assert schedule.period == 3
    for index in range(7):
        partner = np.arange(8) ^ (1 << index % 3)
        np.testing.assert_array_equal(schedule.matrix(index), (np.eye(8) + np.eye(8)[partner]) / 2)


def test_three_workers_by_hand() -> None:
    schedule = OnePeer(3)
    pairs = [((0, 1), 1 / 2), ((0, 2), 2 / 3), ((0, 1), 1 / 2)]
    for index, (pair, weight) in enumerate(pairs):
        assert list(schedule.graph(index).edges) == [pair]
        assert schedule.matrix(index)[pair] == pytest.approx(weight)


@pytest.mark.parametrize(("n", "rounds"), [(1, 1), (2, 1), (4, 2), (6, 4), (7, 5), (12, 5), (16, 4), (33, 11)])
def test_length_of_a_period(n: int, rounds: int) -> None:
    """At most 2 log2 N + 1 rounds; 6 = 2 x 3 takes 3 rounds within the threes and 1 between them, instead of 5."""
    assert OnePeer(n).period == rounds


def test_no_workers() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1; got 0"):
        OnePeer(0)


def test_a_strategy_uses_its_matrices() -> None:
    """Three scripted workers move half-way to their centres; in round 2 the pair (0, 2) has the weight 2/3."""
    strategy = DPSGD("one_peer", partition=Partition(), eval_every=99)
    script = scripted.Script((4.0, 8.0, 16.0))
    strategy.start(scripted.grid(script), scripted.model(), 2, evaluate_fn=lambda number, arrays: None)
    x = np.zeros(3)
    for index in range(2):
        x = OnePeer(3).matrix(index) @ ((x + np.array([4.0, 8.0, 16.0])) / 2)
    np.testing.assert_allclose(strategy.state.rows[:, 0], x, rtol=1e-6)
