"""Requests are repeated where the SuperLink itself fails, and only there."""

from types import SimpleNamespace

import pytest

from echelon.deployment.patience import GIVE_UP_SECONDS, patient


class StatusError(Exception):
    """As httpx raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


class Link:
    """Fails so many times, on a clock that sleeping moves on."""

    def __init__(self, error: Exception, times: float) -> None:
        self.error, self.times = error, times
        self.now, self.slept = 0.0, list[float]()

    def request(self, number: int) -> int:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return number

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def ask(self) -> int:
        return int(patient(self.request, self.sleep, lambda: self.now)(7))


def test_a_request_is_repeated_with_growing_pauses() -> None:
    link = Link(StatusError(500), 7)
    assert link.ask() == 7
    assert link.slept == [0.5, 1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize("error", [StatusError(403), ValueError("no response")])
def test_other_errors_are_raised_at_once(error: Exception) -> None:
    link = Link(error, 1)
    with pytest.raises(type(error)):
        link.ask()
    assert link.slept == []


def test_it_gives_up_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    link = Link(StatusError(500), float("inf"))
    with pytest.raises(StatusError):
        link.ask()
    assert GIVE_UP_SECONDS <= link.now < GIVE_UP_SECONDS + 10
    assert caplog.messages[0] == "The SuperLink fails at a request (status 500); it is repeated in 0.5 s"
