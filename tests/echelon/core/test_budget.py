"""A budget in a training loop of one's own: counts, time and reports."""

from typing import Any

import pytest
import torch

from echelon.core import budget as module
from echelon.core.budget import Budget, num_samples


class Time:
    """A clock that a mini-batch of one sample moves on by a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("echelon.core.clocks.time.perf_counter", lambda: self.now)

    def train(self, batch: torch.Tensor) -> None:
        self.now += len(batch)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


LOADER = list(torch.split(torch.arange(12.0), 4))


def run(time: Time, loader: Any = LOADER, **instructions: Any) -> tuple[Budget, list[list[float]]]:
    budget, seen = Budget(instructions), []
    for batch in budget.minibatches(loader):
        seen.append(batch.tolist())
        time.train(batch)
    return budget, seen


@pytest.mark.parametrize(("target", "minibatches", "samples"), [(4, 1, 4), (8, 2, 8), (12, 3, 12), (20, 5, 20)])
def test_it_goes_on_until_the_target(time: Time, target: int, minibatches: int, samples: int) -> None:
    budget, seen = run(time, target_samples=target)
    assert seen == [LOADER[i % 3].tolist() for i in range(minibatches)]
    assert budget.report() == {
        "samples": samples,
        "minibatches": minibatches,
        "seconds": samples,
        "dropped_seconds": 0.0,
    }


def test_it_takes_the_place_of_the_loader(time: Time) -> None:
    """A loop of several epochs that divides by the length of what it passes over."""
    budget = Budget({"target_samples": 20})
    batches = budget.minibatches(LOADER)
    assert len(batches) == 3
    seen = [[batch.tolist() for batch in batches] for _ in range(2)]
    assert [len(each) for each in seen] == [5, 0]
    assert len(batches) == 5
    assert budget.report()["samples"] == 20


def test_without_a_target_every_epoch_is_a_pass(time: Time) -> None:
    budget = Budget({})
    batches = budget.minibatches(LOADER)
    for _ in range(2):
        for batch in batches:
            time.train(batch)
    assert len(batches) == 3
    assert budget.report() == {"samples": 24, "minibatches": 6, "seconds": 24, "dropped_seconds": 0.0}


def test_samples_beyond_the_target_are_not_reported(time: Time) -> None:
    assert run(time, target_samples=6)[0].report()["samples"] == 6


def test_minibatches_are_those_of_the_run_not_of_the_loader(time: Time) -> None:
    budget, seen = run(time, target_samples=12, minibatch_size=5)
    assert len(seen) == 3
    assert budget.report()["minibatches"] == 3
    assert run(time, target_samples=12, minibatch_size=2)[0].report()["minibatches"] == 6


def test_the_target_is_that_of_the_steps_without_another_one(time: Time) -> None:
    assert len(run(time, local_steps=2, batch_size=8)[1]) == 4


def test_without_instructions_it_is_one_pass(time: Time) -> None:
    budget, seen = run(time)
    assert len(seen) == 3
    assert budget.report()["samples"] == 12


@pytest.mark.parametrize(("seconds", "minibatches"), [(0.0, 1), (4.0, 1), (7.9, 1), (8.0, 2), (11.0, 2), (99.0, 3)])
def test_it_stops_when_the_next_one_would_not_fit(time: Time, seconds: float, minibatches: int) -> None:
    budget, seen = run(time, target_samples=12, budget_seconds=seconds)
    assert len(seen) == minibatches
    left = max(seconds - 4 * minibatches, 0.0) if minibatches < 3 else 0.0
    assert budget.report()["dropped_seconds"] == pytest.approx(left)


def test_it_stops_when_the_round_is_over(time: Time) -> None:
    asked: list[float] = []

    def is_over() -> bool:
        asked.append(time.now)
        return len(asked) == 2

    budget = Budget({"target_samples": 20, "min_minibatches": 2}, is_over)
    for batch in budget.minibatches(LOADER):
        time.train(batch)
    assert asked == [108.0, 112.0]  # not before the least number of mini-batches
    assert not budget.is_finished
    assert budget.report() == {"samples": 12, "minibatches": 3, "seconds": 12.0, "dropped_seconds": 0.0}


def test_it_is_finished_with_the_target_only(time: Time) -> None:
    assert run(time, target_samples=12)[0].is_finished
    assert not run(time, target_samples=12, budget_seconds=8.0)[0].is_finished
    assert not run(time)[0].is_finished


def test_the_first_one_is_judged_by_the_estimate_of_the_server(time: Time) -> None:
    told = {"min_minibatches": 0, "seconds_per_minibatch": 8.0, "minibatch_size": 8, "target_samples": 12}
    assert len(run(time, budget_seconds=3.9, **told)[1]) == 0
    assert len(run(time, budget_seconds=4.0, **told)[1]) == 1


def test_time_before_the_loop_does_not_count(time: Time) -> None:
    budget = Budget({"target_samples": 4})
    time.now += 50
    for batch in budget.minibatches(LOADER):
        time.train(batch)
    assert budget.report()["seconds"] == 4


def test_no_data(time: Time) -> None:
    with pytest.raises(ValueError, match="the loader has no mini-batches: this worker has no data"):
        run(time, [], target_samples=4)


@pytest.mark.parametrize(
    "batch",
    [torch.zeros(3, 2), (torch.zeros(3, 2), torch.zeros(3)), {"x": torch.zeros(3)}, [{"x": torch.zeros(3)}], ["a"] * 3],
)
def test_samples_of_a_minibatch(batch: Any) -> None:
    assert num_samples(batch) == 3


def test_a_minibatch_without_rows() -> None:
    with pytest.raises(ValueError, match="a mini-batch must have tensors with one row per sample; got int"):
        module.num_samples(3)
