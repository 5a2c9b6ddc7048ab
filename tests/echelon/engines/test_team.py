"""The processes of a run on this machine: what they are told to do, who is lost, who comes back, and the end."""

import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from echelon.engines import torch as engine
from echelon.engines.member import Member, serve
from strategies import RunStoppedError

pytestmark = pytest.mark.deployment
Values = Mapping[int, Any]


class Script:
    """A conductor that asks for rounds until it has seen enough."""

    def __init__(self, enough: Callable[[Values], bool], to_save: str = "end") -> None:
        self._enough, self._to_save = enough, to_save
        self.values: list[Values] = []
        self.lost: list[str] = []
        self.stop = Event()

    def first(self) -> str:
        return "round"

    def committed(self, step: str, values: Values, lost: Mapping[int, str]) -> str:
        self.values.append(values)
        self.lost += lost.values()
        if step == "save":
            return "end"
        return "end" if self._enough(values) else "round"

    def interrupted(self) -> str:
        return self._to_save


def work(do: Callable[[Member], Any], member: Member) -> None:
    """Do something in every round; say one's process id where something is to be saved."""
    member.introduce(b"")
    joined: list[int] = []
    steps = {"join": lambda: joined.append(1), "round": lambda: (do(member), len(joined)), "save": os.getpid}
    nothing = lambda: None  # noqa: E731
    serve(member, steps, nothing, nothing)


def start(do: Callable[[Member], Any], script: Script, timeout: float = 60) -> None:
    engine.run(partial(work, do), [0, 0, 1], script, stop=script.stop, timeout=timeout)


def total(member: Member) -> float:
    found = torch.ones(1)
    torch.distributed.all_reduce(found)
    return found.item()


def fails(member: Member) -> None:
    if member.process == 1:
        raise ValueError("learning_rate must be above 0; got -1\nand more")
    total(member)


def is_hit(number: signal.Signals, marker: Path, member: Member) -> float:
    """Hit the second process once, where the other one waits for it."""
    if member.process == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), number)
    return total(member)


def is_killed(process: int | None, member: Member) -> None:
    if process in (member.process, None):
        os.kill(os.getpid(), signal.SIGKILL)
    total(member)


def takes_long(marker: Path, member: Member) -> None:
    with member.interruptible():
        marker.with_name(f"{marker.name}{member.process}").touch()
        Event().wait()


def test_as_many_workers_as_possible_in_each_process() -> None:
    assert engine.owners(8, 3) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert engine.owners(3, 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("do", "line"),
    [
        (fails, "^worker 2: learning_rate must be above 0; got -1$"),
        (partial(is_killed, None), "^no process is left; the process of workers? .* was killed by SIGKILL$"),
    ],
    ids=["fails", "all are killed"],
)
def test_what_ends_all(do: Callable[[Member], Any], line: str) -> None:
    with pytest.raises(engine.ProcessFailedError, match=line):
        start(do, Script(lambda values: False))


@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "was stopped for 4 s (engine.timeout)")],
)
def test_a_lost_process_comes_back(number: signal.Signals, how: str, tmp_path: Path) -> None:
    """The other one goes on alone, and tells it of the run when it is back."""
    together: list[Values] = []

    def enough(values: Values) -> bool:
        together.extend([values] if len(values) == 2 else [])
        return len(together) == 2

    script = Script(enough)
    start(partial(is_hit, number, tmp_path / "hit"), script, timeout=60 if number == signal.SIGKILL else 4)
    assert script.lost == [f"the process of worker 2 {how}"]
    *alone, before, last = script.values
    assert alone
    assert all(values == {0: (1.0, 0)} for values in alone)
    assert before == last == {0: (2.0, 1), 1: (2.0, 1)}


def test_told_to_stop(tmp_path: Path) -> None:
    """What takes long is given up, what is to be saved is saved, and no process is left."""
    script, markers = Script(lambda values: True, "save"), [tmp_path / "begun0", tmp_path / "begun1"]

    class Stopping(Event):
        def is_set(self) -> bool:
            return all(marker.exists() for marker in markers)

    script.stop = Stopping()
    with pytest.raises(RunStoppedError):
        start(partial(takes_long, tmp_path / "begun"), script)
    (pids,) = script.values
    assert sorted(pids) == [0, 1]
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
