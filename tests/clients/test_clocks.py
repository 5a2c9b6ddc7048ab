import math
import time
from collections.abc import Callable, Iterator
from itertools import count, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.clocks import VirtualClock
from echelon.core.clocks import WallClock

INF = float("inf")


def virtual(samples_per_second: float, factors: Iterator[float] | None = None) -> VirtualClock:
    drawn = factors or repeat(1.0)
    return VirtualClock(samples_per_second, lambda: next(drawn))


def work(clock: VirtualClock, budget: float, target: int, samples: int = 1) -> int:
    done = 0
    while done < target and clock.fits(samples, budget):
        clock.tick(samples)
        done += 1
    return done


class TestVirtualClock:
    def test_a_minibatch_takes_samples_over_speed(self) -> None:
        clock = virtual(50.0)
        clock.tick(25)
        assert clock.seconds == 0.5
        clock.tick(100)
        assert clock.seconds == 2.5

    def test_jitter_multiplies_each_minibatch(self) -> None:
        clock = virtual(10.0, iter([3.0, 1.0, 0.5, 1.0]))
        for _ in range(3):
            clock.tick(10)
        assert clock.seconds == 4.5

    def test_the_duration_is_drawn_before_the_question_whether_it_fits(self) -> None:
        clock = virtual(1.0, iter([3.0, 1.0]))
        assert not clock.fits(1, 2.9)
        assert not clock.fits(1, 2.9), "asking again draws nothing"
        assert clock.fits(1, 3.0)

    @given(tau=st.sampled_from([0.1, 0.3, 1.0, 1.1, 2.0, 4.0, 1 / 3, 1 / 7]), target=st.integers(1, 40))
    def test_all_of_a_target_fits_into_its_own_predicted_time(self, tau: float, target: int) -> None:
        """Rounding must not drop the last mini-batch of the worker that sets the budget."""
        assert work(virtual(1 / tau), target * tau, target) == target

    @given(tau=st.floats(0.01, 10), budget=st.floats(0, 50))
    def test_counts_are_floor_of_budget_over_tau(self, tau: float, budget: float) -> None:
        exact = budget / tau
        done = work(virtual(1 / tau), budget, 10_000)
        assert done == pytest.approx(math.floor(exact), abs=0 if abs(exact - round(exact)) > 1e-3 else 1)

    def test_no_budget_no_limit(self) -> None:
        assert virtual(1e-9).fits(10**9, INF)


class TestWallClock:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        """Return a function that sets the time."""
        moment = [100.0]
        monkeypatch.setattr(time, "perf_counter", lambda: moment[0])
        return lambda seconds: moment.__setitem__(0, 100.0 + seconds)

    def test_seconds_since_it_was_made(self, now: Callable[[float], None]) -> None:
        clock = WallClock()
        now(2.5)
        assert clock.seconds == 2.5

    def test_the_estimate_decides_about_the_first_minibatch(self, now: Callable[[float], None]) -> None:
        clock = WallClock(seconds_per_sample=0.5)
        assert clock.fits(4, 2.0)
        assert not clock.fits(5, 2.0)

    def test_an_unknown_duration_fits(self) -> None:
        assert WallClock().fits(10**6, 1e-9)

    def test_this_rounds_own_pace_decides_from_then_on(self, now: Callable[[float], None]) -> None:
        clock = WallClock(seconds_per_sample=0.001)
        now(3.0)
        clock.tick(10)  # 0.3 s per sample
        assert clock.fits(10, 6.0)
        assert not clock.fits(10, 5.9)
        now(4.0)  # what happened between the mini-batches counts as well
        clock.tick(10)
        assert clock.fits(10, 6.0)
        assert not clock.fits(11, 6.0)

    def test_real_time_passes(self) -> None:
        clock = WallClock()
        for _ in count():
            if clock.seconds > 0:
                break
        assert clock.seconds > 0

    def test_a_limited_device_sleeps_after_a_minibatch_that_was_faster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
        clock = WallClock(speed_limit=4.0)
        now[0] += 0.5
        clock.tick(8)
        assert clock.seconds == 2.0
        now[0] += 3.0
        clock.tick(8)
        assert clock.seconds == 5.0
        assert clock.fits(8, 7.5)
        assert not clock.fits(8, 7.4)
