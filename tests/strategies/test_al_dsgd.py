"""AL-DSGD round by round, against the papers' formulas written out worker by worker."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
from flwr.app import ArrayRecord

from echelon.algorithms.mixing import metropolis
from strategies import ALDSGD, FullBatch, Options, Partition, ServerState
from tests.strategies import scripted

CENTRES = (4.0, -2.0, 1.0, 8.0, 0.0)
# Worker 3 is the best connected, worker 0 has the lowest loss (the script reports the rank).
GRAPH = nx.Graph([(0, 3), (1, 3), (2, 3), (3, 4), (0, 1)])
BATCH = FullBatch(batch_size=8, minibatch_size=4)


def run(rounds: int, losses: Any = None, **options: Any) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    rows: list[np.ndarray] = []
    records: list[dict[str, Any]] = []

    def note(record: dict[str, Any], state: ServerState) -> None:
        rows.append(state.rows[:, 0].copy())
        records.append(record)

    strategy = ALDSGD(GRAPH, work=BATCH, partition=Partition(), on_round=[note], eval_every=99, **options)
    script = scripted.Script(CENTRES, **({"loss": losses} if losses else {}))
    strategy.start(scripted.grid(script), scripted.model(2.0), rounds, evaluate_fn=lambda number, arrays: None)
    return rows, records


def step(x: np.ndarray) -> np.ndarray:
    return np.asarray(x + (np.array(CENTRES) - x) / 2)


def led(y: np.ndarray, c1: float, c2: float, p1: float, p2: float) -> np.ndarray:
    """Leader weights, then the corrective force, worker by worker."""
    W = metropolis(GRAPH)
    after = np.empty_like(y)
    for i in GRAPH:
        around = [i, *GRAPH[i]]
        best = y[min(around)]  # the loss is the rank
        degree = y[max(around, key=lambda j: (GRAPH.degree[j], j == i, -j))]
        z = (1 - c1 - c2) * (W[i] @ y) + c1 * best + c2 * degree
        after[i] = z - p1 * (z - best) - p2 * (z - degree)
    return after


def test_leaders_weigh_more_and_pull() -> None:
    rows, records = run(3, c1=0.3, c2=0.1, p1=0.2, p2=0.05)
    x = np.full(5, 2.0)
    for found, record in zip(rows, records, strict=True):
        x = led(step(x), 0.3, 0.1, 0.2, 0.05)
        np.testing.assert_allclose(found, x, rtol=1e-6)
        assert record["leaders_best"] == [0, 0, 2, 0, 3]
        assert record["leaders_degree"] == [3, 3, 3, 3, 3]


def test_every_second_round_and_less_each_time() -> None:
    rows, _ = run(4, c1=0.3, c2=0.1, p1=0.2, p2=0.05, every=2, decay=0.5)
    x = np.full(5, 2.0)
    for number, found in enumerate(rows, start=1):
        left = 0.5 ** (number - 1)
        weights = [weight * left for weight in (0.3, 0.1, 0.2, 0.05)] if number % 2 == 0 else [0.0] * 4
        x = led(step(x), *weights)
        np.testing.assert_allclose(found, x, rtol=1e-6)


def test_the_loss_on_a_shared_batch_decides_when_it_is_the_signal() -> None:
    """Here the model with the largest value is called the best, whatever the workers report."""
    _, records = run(2, signal="held_out", held_out_loss=lambda arrays: -float(arrays["w"].numpy()[0]))
    assert records[0]["leaders_best"] == [3, 3, 3, 3, 3]


@pytest.mark.parametrize(("signal", "losses"), [("train_loss", [1.0, 3.0]), ("ema", [1.0, 1.5])])
def test_the_average_over_rounds_when_it_is_the_signal(signal: Any, losses: list[float]) -> None:
    seen: list[float] = []
    options = Options(partition=Partition(), work=BATCH, eval_every=99)
    options["on_round"] = [lambda record, state: seen.append(float(state.losses[1]))]
    strategy = ALDSGD(GRAPH, signal=signal, ema=0.25, **options)
    app = scripted.Script(CENTRES, loss=lambda rank, instructions: 2.0 * instructions.server_round - 1.0)
    strategy.start(scripted.grid(app), scripted.model(), 2, evaluate_fn=lambda number, arrays: None)
    assert seen == losses


def test_a_worker_follows_only_who_is_better_than_its_own_mixed_model() -> None:
    """The loss is the distance to 1: worker 2 (2 -> 1.5) leads, and nobody whose average is nearer follows it."""

    def loss(arrays: ArrayRecord) -> float:
        return abs(float(arrays["w"].numpy()[0]) - 1.0)

    rows, records = run(1, signal="held_out", gate=True, held_out_loss=loss)
    y = step(np.full(5, 2.0))
    mixed = metropolis(GRAPH) @ y
    expected = mixed.copy()
    followed = []
    for i in GRAPH:
        best = min([i, *sorted(GRAPH[i])], key=lambda j: abs(y[j] - 1))
        if abs(y[best] - 1) < abs(mixed[i] - 1):
            followed.append(i)
            expected[i] = 0.63 * mixed[i] + 0.37 * y[best]
    assert 0 < len(followed) < 5
    np.testing.assert_allclose(rows[0], expected, rtol=1e-6)
    assert records[0]["leaders_best"] == [min([i, *sorted(GRAPH[i])], key=lambda j: abs(y[j] - 1)) for i in range(5)]


def test_the_gate_needs_held_out_losses() -> None:
    with pytest.raises(ValueError, match=r"strategy\.gate=true needs strategy\.signal=held_out; got train_loss"):
        ALDSGD(GRAPH, gate=True)


def test_the_leader_by_degree_is_off_with_the_gate() -> None:
    assert ALDSGD(GRAPH).weights == {"c1": 0.3, "c2": 0.1, "p1": 0.1, "p2": 0.1}
    robust = ALDSGD(GRAPH, robust=True, held_out_loss=lambda arrays: 0.0)
    assert robust.weights == {"c1": 0.3, "c2": 0.0, "p1": 0.1, "p2": 0.0}
    assert (robust.signal, robust.gate) == ("held_out", True)


def test_random_leaders_do_not_depend_on_losses() -> None:
    """The control: with any losses the same leaders, drawn anew in every round."""
    rows, records = run(6, signal="random")
    others, _ = run(6, lambda rank, instructions: 9.0 - rank, signal="random")
    assert [row.tolist() for row in rows] == [row.tolist() for row in others]
    assert len({tuple(record["leaders_best"]) for record in records}) > 1
    seeds, _ = run(6, signal="random", seed=1)
    assert rows[-1].tolist() != seeds[-1].tolist()
