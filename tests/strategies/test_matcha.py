"""MATCHA round by round: which edges are active, and what they do to the models."""

from typing import Any

import networkx as nx
import numpy as np
import pytest

from echelon.algorithms import matcha
from echelon.algorithms.topology import build, matchings
from strategies import FullBatch, Matcha, Partition, ServerState
from tests.strategies import scripted

CENTRES = tuple(float(rank) for rank in range(8))


def run(rounds: int, budget: float, seed: int = 0) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    rows: list[np.ndarray] = []
    records: list[dict[str, Any]] = []

    def note(record: dict[str, Any], state: ServerState) -> None:
        rows.append(state.rows[:, 0].copy())
        records.append(record)

    options: dict[str, Any] = {"partition": Partition(), "on_round": [note], "eval_every": 999, "seed": seed}
    strategy = Matcha("g0", communication_budget=budget, work=FullBatch(batch_size=8, minibatch_size=4), **options)
    script = scripted.Script(CENTRES)
    strategy.start(scripted.grid(script), scripted.model(2.0), rounds, evaluate_fn=lambda number, arrays: None)
    return rows, records


def test_active_neighbours_average_and_the_others_do_not() -> None:
    found, plan = matchings(build("g0", 8)), matcha.solve(matchings(build("g0", 8)), 8, 0.5)
    rows, records = run(6, 0.5)
    x = np.full(8, 2.0)
    for index, (after, record) in enumerate(zip(rows, records, strict=True)):
        edges = [
            edge for on, matching in zip(matcha.active(plan, 0, index), found, strict=True) if on for edge in matching
        ]
        y = x + (np.array(CENTRES) - x) / 2
        x = y.copy()
        for i, j in edges:
            x[i] -= plan.alpha * (y[i] - y[j])
            x[j] -= plan.alpha * (y[j] - y[i])
        np.testing.assert_allclose(after, x, rtol=1e-5, atol=1e-6)
        assert sorted(map(sorted, record["edges"])) == sorted(map(sorted, edges))


def test_the_budget_is_kept_on_average() -> None:
    _, records = run(300, 0.4)
    degrees = [len(record["edges"]) for record in records]
    graph = build("g0", 8)
    plan = matcha.solve(matchings(graph), 8, 0.4)
    expected = sum(p * len(m) for p, m in zip(plan.probabilities, matchings(graph), strict=True))
    assert np.mean(degrees) == pytest.approx(expected, rel=0.1)
    assert sum(plan.probabilities) == pytest.approx(0.4 * len(plan.probabilities), rel=1e-6)


def test_other_seeds_draw_others() -> None:
    assert [r["edges"] for r in run(8, 0.5)[1]] != [r["edges"] for r in run(8, 0.5, seed=1)[1]]


def test_the_whole_budget_is_every_edge_in_every_round() -> None:
    graph: nx.Graph = build("g0", 8)
    assert all(len(record["edges"]) == graph.number_of_edges() for record in run(5, 1.0)[1])
