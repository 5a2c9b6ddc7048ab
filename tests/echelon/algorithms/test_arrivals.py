import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echelon.algorithms.arrivals import ArrivalGroups, ArrivalRule


def groups(paces: list[float], rule: ArrivalRule, now: float = 0.0, delays: list[float] | None = None) -> ArrivalGroups:
    found = ArrivalGroups.held({}, len(paces))
    for rank in range(len(paces)):
        found.assign(rank, now, np.array(delays or [0.0] * len(paces)), np.array(paces), rule)
    return found


class TestByHand:
    def test_one_that_cannot_join_aims_at_the_next_arrival_of_the_fastest(self) -> None:
        # The first group is expected at 4 and waits until 4.8. The slow worker would need one step, but two are the
        # least; the fast ones can be back at 4.8 + 4 = 8.8, in which it does floor(8.8 / 4) = 2.
        found = groups([1.0, 1.0, 4.0], ArrivalRule(2, 4, 0.2))
        assert found.numbers.tolist() == [0, 0, 1]
        assert found.steps.tolist() == [4, 4, 2]
        assert found.expected.tolist() == [4.0, 4.0, 8.0]
        assert found.latest.tolist() == pytest.approx([4.8, 4.8, 9.6])
        # At 4 the fast ones join the slow one: (8 - 4) / 1 steps.
        found.leave([0, 1])
        for rank in (0, 1):
            found.assign(rank, 4.0, np.zeros(3), np.array([1.0, 1.0, 4.0]), ArrivalRule(2, 4, 0.2))
        assert found.members(2) == [0, 1, 2]
        assert found.steps.tolist() == [4, 4, 2]

    def test_communication_leaves_less_time_to_compute(self) -> None:
        found = groups([1.0, 1.0], ArrivalRule(1, 4, 0.5), now=10.0, delays=[0.0, 1.5])
        assert found.steps.tolist() == [4, 2]
        assert found.latest.tolist() == pytest.approx([16.0, 16.0])

    def test_the_group_in_which_a_worker_does_the_most(self) -> None:
        found = groups([4.0, 1.0, 1.0], ArrivalRule(1, 8, 0.0))  # expected at 32; the others at 8
        assert found.numbers.tolist() == [0, 1, 1]
        found.assign(2, 5.0, np.zeros(3), np.array([4.0, 1.0, 5.0]), ArrivalRule(1, 8, 0.0))
        assert (found.numbers[2], found.steps[2]) == (0, 5)  # (32 - 5) / 5, where (8 - 5) / 5 is no step

    def test_unknown_speeds(self) -> None:
        found = groups([float("nan"), 0.0, 1.0], ArrivalRule(2, 4, 0.2))
        assert found.numbers.tolist() == [0, 1, 2]
        assert found.steps.tolist() == [2, 2, 4]
        assert not found.is_late(0, 1e9)

    def test_late(self) -> None:
        found = groups([1.0, 1.0], ArrivalRule(1, 4, 0.25))
        assert not found.is_late(0, 5.0)
        assert found.is_late(0, 5.1)
        found.leave([0])
        assert found.is_late(0, 1.0)
        assert found.members(0) == []


def test_the_arrays_are_those_of_the_mapping() -> None:
    held: dict[str, object] = {}
    ArrivalGroups.held(held, 2).assign(1, 0.0, np.zeros(2), np.ones(2), ArrivalRule(1, 3, 0.2))
    assert ArrivalGroups.held(held, 2).steps.tolist() == [0, 3]


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(0, 20),
    st.floats(0.0, 1e6),
)
def test_every_task_is_within_the_bounds_and_no_group_is_missed(
    paces: list[float], q_min: int, more: int, now: float
) -> None:
    rule = ArrivalRule(q_min, q_min + more, 0.1)
    found = groups(paces, rule, now)
    assert ((found.steps >= rule.q_min) & (found.steps <= rule.q_max)).all()
    for rank, pace in enumerate(paces):
        arrival = now + found.steps[rank] * pace
        assert not found.is_late(rank, arrival)
        # A group waits for nobody longer than one step of that worker.
        assert found.expected[rank] - arrival <= pace * (1 + 1e-6) + 1e-6
