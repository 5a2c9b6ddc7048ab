"""What ``robust=True`` bounds, worker by worker: one of five sends 1e6 instead of its model."""

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest

from echelon.algorithms.mixing import metropolis
from strategies import ALDSGD, DPSGD, AllReduce, FlowerStrategy, FullBatch, Matcha, NormLimit, Partition
from tests.strategies import scripted

CENTRES = (0.0, 1.0, 2.0, 2e6, 3.0)
GRAPH = nx.complete_graph(5)
# The bound on updates is tested elsewhere; here it is out of the way.
OPTIONS: dict[str, Any] = {
    "robust": True,
    "norm_limit": NormLimit(1e9),
    "work": FullBatch(batch_size=8, minibatch_size=4),
    "partition": Partition(),
    "eval_every": 99,
    "held_out_loss": lambda arrays: -float(arrays["w"].numpy()[0]),  # the liar looks best
}


def one_round(make: Callable[..., FlowerStrategy], **options: Any) -> FlowerStrategy:
    strategy = make(**OPTIONS | options)
    script = scripted.Script(CENTRES)
    strategy.start(scripted.grid(script), scripted.model(), 1, evaluate_fn=lambda number, arrays: None)
    return strategy


def after_one_round(make: Callable[..., FlowerStrategy], **options: Any) -> np.ndarray[Any, Any]:
    return one_round(make, **options).state.rows[:, 0].astype(np.float64)


def test_d_psgd_clips_to_the_median_distance() -> None:
    y = np.array(CENTRES) / 2
    expected = y.copy()
    for i in range(5):
        radius = sorted(abs(y - y[i]))[1:][1]  # of four neighbours, the second
        expected[i] += sum(np.clip(y[j] - y[i], -radius, radius) * metropolis(GRAPH)[i, j] for j in GRAPH[i])
    np.testing.assert_allclose(after_one_round(lambda **o: DPSGD(GRAPH, **o)), expected, rtol=1e-6)


def test_all_reduce_trims_one_of_five_at_each_end() -> None:
    np.testing.assert_allclose(after_one_round(AllReduce), np.full(5, np.mean([0.5, 1.0, 1.5])))


def test_the_consensus_model_trims_one_of_five_at_each_end() -> None:
    """The liar's own row keeps what it sent; the result of the run does not."""
    strategy = one_round(lambda **o: DPSGD(GRAPH, **o))
    rows = np.sort(strategy.state.rows[:, 0].astype(np.float64))
    assert rows[-1] > 1e5
    np.testing.assert_allclose(strategy.consensus()["w"].numpy()[0], rows[1:4].mean(), rtol=1e-6)


@pytest.mark.parametrize("base", ["d_psgd", "matcha"])
def test_a_leader_cannot_pull_beyond_the_radius(base: Any) -> None:
    found = after_one_round(lambda **o: ALDSGD(GRAPH, base=base, communication_budget=1.0, **o))
    assert abs(found[[0, 1, 2, 4]]).max() < 4


def test_matcha_compares_with_all_neighbours_of_the_graph() -> None:
    """A matching leaves a worker one neighbour, whose own distance would be its radius."""
    found = after_one_round(lambda **o: Matcha(GRAPH, communication_budget=0.2, **o))
    assert abs(found[[0, 1, 2, 4]]).max() < 4


@pytest.mark.parametrize("make", [AllReduce, lambda **o: DPSGD(GRAPH, **o), lambda **o: ALDSGD(GRAPH, **o)])
def test_without_it_the_liar_reaches_everybody(make: Callable[..., FlowerStrategy]) -> None:
    assert after_one_round(make, robust=False).min() > 9e4


def test_a_warning_names_who_has_nobody_to_compare_with(caplog: pytest.LogCaptureFixture) -> None:
    after_one_round(lambda **o: DPSGD("path", **o))
    assert "workers [0, 4] have a single neighbour" in caplog.text
    caplog.clear()
    after_one_round(lambda **o: DPSGD("ring", **o))
    assert "single neighbour" not in caplog.text
