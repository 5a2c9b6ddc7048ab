"""The estimator ``memory`` in real runs: earlier gradients stand for what workers did not finish."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clients.fleet import Device, Fleet
from echelon.algorithms.partial import blend
from echelon.engines.inline import InlineGrid
from strategies import ALDSGD, DPSGD, SGD, AllReduce, FedBuff, NonBlocking, NormLimit, OverSelection
from tests import tiny
from tests.strategies.test_unlike import MEAN, RING, slope, start, streams

Numbers = NDArray[np.float64]

WORK = NonBlocking(batch_size=16, minibatch_size=4, estimator="memory")
DONE = (16, 16, 8, 4)  # samples of 16 on devices at 1, 1, 1/2, 1/4 of the speed


def memory(run: tiny.Run) -> Numbers:
    held: Any = run.strategy.state.extras["memory"]
    return np.asarray(held, dtype=np.float64)


@pytest.mark.parametrize("momentum_mixing", ["mixed", "quasi_global"])
@pytest.mark.parametrize(("make", "matrix"), [(partial(DPSGD, "ring"), RING), (AllReduce, MEAN)])
def test_written_out(make: Any, matrix: Numbers, momentum_mixing: str) -> None:
    """The blend takes the gradient's place before momentum and weight decay."""
    sgd = SGD(0.2, momentum=0.6, weight_decay=0.05)
    run = tiny.run(partial(make, momentum_mixing=momentum_mixing), 5, work=WORK, sgd=sgd)
    assert run.records[-1]["samples"] == list(DONE)
    x, v, m, held = start(), *(np.zeros_like(start()) for _ in range(2)), np.full_like(start(), np.nan)
    samples, used = streams(5), np.zeros(4, dtype=int)
    for _ in range(5):
        sums = []
        for rank, size in enumerate(DONE):
            sums.append(size * slope(samples[rank][used[rank] : used[rank] + size], x[rank]))
            used[rank] += size
        held = blend(sums, DONE, 16, held)
        before, v = x, 0.6 * (m if momentum_mixing == "quasi_global" else v) + held + 0.05 * x
        x = matrix @ (x - 0.2 * v)
        v, m = matrix @ v, 0.6 * m + 0.4 * (before - x) / 0.2
    np.testing.assert_allclose(run.rows, x, atol=2e-5)
    np.testing.assert_allclose(memory(run), held, atol=2e-4)


@pytest.mark.parametrize(("momentum", "decay", "tolerance"), [(0.0, 0.0, 2e-5), (0.6, 0.0, 2e-5), (0.6, 0.05, 5e-3)])
@pytest.mark.parametrize(
    ("make", "matrix"), [(partial(DPSGD, "ring", momentum_mixing="mixed"), RING), (AllReduce, MEAN)]
)
def test_several_steps_written_out(make: Any, matrix: Numbers, momentum: float, decay: float, tolerance: float) -> None:
    """What is missing of a step, and of those not begun, is h_i; at first the mean of the round's gradients."""
    run = tiny.run(make, 4, work=replace(WORK, local_steps=3), sgd=SGD(0.2, momentum, decay))
    done = [3 * samples for samples in DONE]  # 3, 3, 1 1/2 and 3/4 batches
    assert run.records[-1]["samples"] == done
    x, v, held = start(), np.zeros_like(start()), np.full_like(start(), np.nan)
    samples, used = streams(12), [0] * 4
    for _ in range(4):
        sums = np.zeros_like(x)
        for rank in range(4):
            for step in range(3):
                size = min(max(done[rank] - 16 * step, 0), 16)
                here = samples[rank][used[rank] : used[rank] + size]
                used[rank] += size
                gradient = size * slope(here, x[rank]) if size else 0.0
                sums[rank] += gradient
                seen = min(16 * (step + 1), done[rank])
                missing = sums[rank] / seen if np.isnan(held[rank, 0]) else held[rank]
                v[rank] = momentum * v[rank] + gradient / 16 + (1 - size / 16) * missing + decay * x[rank]
                x[rank] -= 0.2 * v[rank]
        held = blend(sums, done, 48, held)
        x, v = matrix @ x, matrix @ v
    np.testing.assert_allclose(run.rows, x, atol=tolerance)
    np.testing.assert_allclose(memory(run), held, atol=10 * tolerance)


@pytest.mark.parametrize(("mu", "decay", "tolerance"), [(0.0, 0.0, 1e-5), (0.6, 0.05, 0.02)])
def test_an_absent_worker_takes_several_steps(mu: float, decay: float, tolerance: float) -> None:
    """One of two workers is away in the second round: where there is one model, it takes three steps by h_i."""
    states: list[tuple[Numbers, ...]] = []

    def note(record: Any, state: Any) -> None:
        velocity = np.zeros_like(state.rows[0]) if state.momentum is None else state.momentum[0]
        states.append((state.rows[0].astype(float), velocity.astype(float), *state.extras["memory"].astype(float)))

    fleet = Fleet((Device(10.0, on_intervals=((0.0, 3.0),)), Device(10.0)))
    work = replace(WORK, local_steps=3)
    run = tiny.run(AllReduce, 2, 2, work=work, devices=fleet, sgd=SGD(0.2, mu, decay), on_round=[note])
    assert [record["present"] for record in run.records] == [[0, 1], [1]]
    (x, v, away, _), (mean, momentum, kept, there) = states
    rows, velocities = [x, x], [v, v]
    for _ in range(3):
        for rank, gradient in enumerate((away, there)):  # that of the other is the mean of its three
            velocities[rank] = mu * velocities[rank] + gradient + decay * rows[rank]
            rows[rank] = rows[rank] - 0.2 * velocities[rank]
    np.testing.assert_array_equal(kept, away)
    np.testing.assert_allclose(mean, np.mean(rows, axis=0), atol=tolerance)
    if mu:
        np.testing.assert_allclose(momentum, np.mean(velocities, axis=0), atol=5 * tolerance)


@pytest.mark.parametrize(
    ("make", "work"),
    [
        (AllReduce, WORK),
        (AllReduce, NonBlocking(batch_size=16, minibatch_size=4, estimator="memory", min_minibatches=0)),
        (partial(OverSelection, keep=0.5), WORK),
    ],
    ids=["absent", "nothing finished", "dropped"],
)
def test_one_model_steps_by_the_memory_of_all(make: Any, work: NonBlocking) -> None:
    """x+ = x - lr times the mean of all h_i, of workers that are away, late or dropped too, once they have one."""
    states: list[tuple[Numbers, Numbers]] = []

    def note(record: Any, state: Any) -> None:
        states.append((state.rows[0].astype(float), state.extras["memory"].astype(float)))

    away = Device(10.0, on_intervals=((0.0, 3.0), (9.0, float("inf"))))
    fleet = Fleet((away, Device(10.0), Device(5.0), Device(1.5)))
    run = tiny.run(make, 14, work=work, devices=fleet, sgd=SGD(0.2), on_round=[note])
    assert any(len(record["present"]) < 4 for record in run.records)
    for (x, _), (after, held) in pairwise(states):
        known = held[~np.isnan(held[:, 0])]
        weight = len(known) / 4 if work.min_minibatches == 0 else 1.0  # present without a gradient: no step
        np.testing.assert_allclose(after, x - 0.2 * weight * known.mean(axis=0), atol=1e-5)


def test_an_absent_worker_on_a_graph_stays_as_it_is() -> None:
    rows: list[Numbers] = []
    away = Device(10.0, on_intervals=((0.0, 3.0), (9.0, float("inf"))))
    run = tiny.run(
        partial(DPSGD, "ring"),
        8,
        work=WORK,
        devices=Fleet((away, Device(10.0), Device(5.0), Device(2.5))),
        on_round=[lambda record, state: rows.append(state.rows.copy())],
    )
    gone = [index for index, record in enumerate(run.records) if 0 not in record["present"]]
    assert gone
    for index in gone:
        np.testing.assert_array_equal(rows[index][0], rows[index - 1][0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(FedBuff, work=WORK), "work.estimator must not be memory with FedBuff, .*; got memory"),
        (partial(AllReduce, work=WORK, robust=True), "strategy.robust must be false with work.estimator=memory, .*"),
        (partial(AllReduce, work=WORK, norm_limit=NormLimit(2.0)), "strategy.max_update_norm must be null with .*"),
        (partial(AllReduce, work=WORK, fold_late=True), "work.fold_late must be false with work.estimator=memory, .*"),
        (
            partial(AllReduce, work=WORK, correction="tracking"),
            "strategy.correction must be none with .*; got tracking",
        ),
        (partial(ALDSGD, work=WORK, force="in_step"), "strategy.force must be after_mixing with .*; got in_step"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_it_needs_sgd() -> None:
    with pytest.raises(ValueError, match=r"work\.estimator=memory needs optimizer\.state=server; got worker or reset"):
        tiny.run(AllReduce, on=InlineGrid(tiny.app(optimizer_state="reset"), 4), work=WORK)
