"""When a trainer process that is not asked for anything exits."""

import os
import socket
from pathlib import Path

import pytest

from echelon.persistent import processes, trainer

KEY = b"k" * 32


class Listener:
    """A socket on which nobody ever connects."""

    def __init__(self) -> None:
        self.waits = 0

    def settimeout(self, seconds: float) -> None:
        self.seconds = seconds

    def accept(self) -> tuple[socket.socket, str]:
        self.waits += 1
        raise TimeoutError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of a run's trainer; an earlier run has one too."""
    for name, time in (("earlier", 100), ("own", 200)):
        (tmp_path / name).mkdir()
        record = tmp_path / name / processes.RECORD
        record.touch()
        os.utime(record, (time, time))
    return tmp_path / "own"


def idle_seconds(folder: Path) -> float:
    listener = Listener()
    trainer.serve(listener, KEY, "no:app", folder)  # type: ignore[arg-type]
    return listener.waits * listener.seconds


def test_it_stays_for_a_quarter_of_an_hour(folder: Path) -> None:
    assert 900 <= idle_seconds(folder) < 1100


def test_it_stays_for_two_minutes_if_a_later_run_has_a_trainer(folder: Path) -> None:
    (folder.parent / "later").mkdir()
    (folder.parent / "later" / processes.RECORD).touch()
    assert idle_seconds(folder) == 120
