"""Damage to a checkpoint is one line that names the file; the last good one stays."""

import errno
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echelon.server import checkpoint, checkpoint_file
from echelon.server.checkpoint import CheckpointError
from echelon.server.checkpoint_file import FORMAT
from echelon.server.state import ServerState


def state(number: int = 1) -> ServerState:
    made = ServerState.initial(np.arange(3, dtype=np.float32), 2, 3)
    made.round = number
    return made


def forge(folder: Path, content: bytes) -> Path:
    """Write a file under the name that fits its content."""
    path = folder / f"round-00000009-{hashlib.sha256(content).hexdigest()[:16]}.npz"
    path.write_bytes(content)
    return path


def members(**changed: Any) -> bytes:
    """Return a checkpoint with other members; None leaves one out."""
    arrays = {**checkpoint_file._arrays(state()), **changed}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in arrays.items() if value is not None})
    return buffer.getvalue()


def complaint(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_newer_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = forge(tmp_path, members(format=FORMAT + 1))
    assert complaint(tmp_path) == (
        f"resume: {path} has format {FORMAT + 1}; this version of Echelon reads up to {FORMAT}"
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rows": None}, "rows is missing"),
        ({"round": None}, "round is missing"),
        ({"rows": np.zeros(3, np.float32)}, "rows must hold float32 of every worker; got float32 of shape (3,)"),
        ({"rows": np.zeros((2, 3))}, "rows must hold float32 of every worker; got float64 of shape (2, 3)"),
        ({"losses": np.zeros(3)}, "losses must hold float64 of every worker; got float64 of shape (3,)"),
        ({"momentum": np.zeros((3, 3), np.float32)}, "momentum must hold float32 of every worker"),
        ({"rows": np.array(["a"])}, "rows must hold float32 of every worker; got <U1 of shape (1,)"),
        ({"round": np.array("seven")}, "round must be a number; got <U5 of shape ()"),
        ({"samples": np.zeros(2, np.int64)}, "samples must be a number; got int64 of shape (2,)"),
        ({"format": np.array("x")}, "invalid literal for int()"),
        ({"colour": np.zeros(2)}, "unknown member colour"),
        ({"rows": np.array([object()])}, "array rows holds pickled objects"),
    ],
)
def test_members(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = forge(tmp_path, members(**changed))
    assert complaint(tmp_path).startswith(f"resume: {path} is not a checkpoint: {reason}")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut", members()[:200], members()[:-30]])
def test_garbage_under_a_fitting_name(content: bytes, tmp_path: Path) -> None:
    path = forge(tmp_path, content)
    assert complaint(tmp_path).startswith(f"resume: {path} is not a checkpoint: ")


def test_damaged_files_are_skipped_and_the_last_one_is_named(tmp_path: Path) -> None:
    first, second = (checkpoint.save(state(number), tmp_path) for number in (1, 2))
    second.write_bytes(second.read_bytes()[:-1])
    assert checkpoint.load(tmp_path).round == 1
    first.write_bytes(b"")
    assert complaint(tmp_path) == f"resume: every checkpoint in {tmp_path} is damaged; the newest is {second.name}"


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    saver = checkpoint.Saver(folder, 1, 9)
    saver({}, state(1))
    before = list(folder.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError) as caught:
        saver({}, state(2))
    reason = "the checkpoint of round 2 cannot be written: No space left on device"
    assert str(caught.value) == f"{folder}: {reason}"
    assert list(folder.iterdir()) == before
    assert checkpoint.load(folder).round == 1


def test_the_folder_of_a_run_that_was_moved_is_not_made_again(tmp_path: Path) -> None:
    saver = checkpoint.Saver(tmp_path / "moved" / "checkpoint", 1, 9)
    with pytest.raises(CheckpointError, match="No such file or directory"):
        saver({}, state())
    assert not (tmp_path / "moved").exists()


def test_a_file_without_a_format_is_of_the_first(tmp_path: Path) -> None:
    forge(tmp_path, members(format=None, exact=None, optimizer=None))
    found = checkpoint.load(tmp_path)
    assert found.round == 1
    assert (found.exact.shape, found.optimizer.shape) == ((2, 0), (2, 0))
