"""Checkpoints: the server's state on disk, written atomically and checked by hash when read.

A checkpoint is one ``.npz`` file without pickled objects, ``round-<number>-<hash>.npz``; the name carries the start of
the content's SHA-256, so that a single rename makes it valid. Its member ``format`` numbers what the members mean.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.supercore import log

from echelon.core import npz
from echelon.server.state import ServerState

_NAME = re.compile(r"round-(\d{8})-([0-9a-f]{16})\.npz")
_EXTRA = "extras."

# Files without the member are of format 1, which has no `exact` and `optimizer`: its rows held all buffers.
FORMAT = 2

# Type and further axes of every array whose first axis is the workers.
_BY_RANK = {
    "rows": ("float32", 1),
    "exact": ("uint8", 1),
    "optimizer": ("float32", 1),
    "momentum": ("float32", 1),
    "cursors": ("int64", 1),
    "left_in_batch": ("int64", 0),
    "seconds_per_minibatch": ("float64", 0),
    "mean_samples": ("float64", 0),
    "rounds_seen": ("int64", 0),
    "losses": ("float64", 0),
}
_NUMBERS = {"round": "iu", "virtual_seconds": "iuf", "wall_seconds": "iuf", "samples": "iu"}


class CheckpointError(ValueError):
    """There is no checkpoint that can be read; the message is one line that names the folder or the file."""


def save(state: ServerState, folder: Path, keep: int = 3) -> Path:
    """Write a checkpoint of a state and remove all but the newest ``keep``.

    The file appears under its name only when its content is on the disk (temporary file, fsync, rename, fsync of the
    folder): a kill or a full disk at any moment leaves the earlier checkpoints as they were.
    """
    folder.mkdir(exist_ok=True)  # without parents: the run's folder may have been moved away
    buffer = io.BytesIO()
    np.savez(buffer, **_arrays(state))
    content = buffer.getbuffer()
    path = folder / f"round-{state.round:08d}-{hashlib.sha256(content).hexdigest()[:16]}.npz"
    for stale in folder.glob("round-*.tmp"):  # of saves that were killed
        stale.unlink()
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # the disk may be full
        raise
    _sync(folder)
    for old in sorted(set(_checkpoints(folder)) - {path}, reverse=True)[keep - 1 :]:
        old.unlink()
    return path


def load(folder: Path) -> ServerState:
    """Return the newest state in a folder whose content matches the hash in its name; damaged files are skipped.

    Raises
    ------
    CheckpointError
        If there is none, all are damaged, or the newest whole one is not a checkpoint that this version reads.
    """
    paths = _checkpoints(folder)
    for path in reversed(paths):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"resume: {path}: {error.strerror}") from error
        if path.name.split("-")[-1] == f"{hashlib.sha256(content).hexdigest()[:16]}.npz":
            return _read(path, content)
        log(WARNING, "%s is damaged and is skipped", path)
    if paths:
        raise CheckpointError(f"resume: every checkpoint in {folder} is damaged; the newest is {paths[-1].name}")
    raise CheckpointError(f"resume: no checkpoint in {folder}; run with checkpoint_every above 0 to write some")


def exists(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, judged by the names of its files."""
    return bool(_checkpoints(folder))


class Saver:
    """Callback for ``on_round`` that saves the state every n rounds, after the last one, and when the run is stopped.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.
    rounds : int
        Rounds between checkpoints; 0 = save nothing at all.
    last : int
        The run's last round.
    keep : int
        Newest checkpoints to keep.
    before : callable, optional
        Called before every save.

    Attributes
    ----------
    copies : bool
        Keep a copy of every round's state (false), for a strategy that changes it between rounds, too.
    """

    def __init__(
        self,
        folder: Path,
        rounds: int,
        last: int,
        keep: int = 3,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.rounds, self.last, self.keep, self.before = folder, rounds, last, keep, before
        self.copies = False
        self._unsaved: ServerState | None = None
        self._reached = 0

    def __call__(self, record: dict[str, Any], state: ServerState) -> None:
        """Save the state of a finished round if it is due."""
        if not self.rounds:
            return
        self._reached = state.round
        if state.round % self.rounds == 0 or state.round == self.last:
            self._unsaved = None
            self._save(state)
        else:
            self._unsaved = deepcopy(state) if self.copies else state

    def stopped(self) -> None:
        """Save the state of the last finished round, if it is not saved yet."""
        # A state that has moved on since is not that of a round whose record is written.
        if self._unsaved is not None and self._unsaved.round == self._reached:
            self._save(self._unsaved)

    def _save(self, state: ServerState) -> None:
        self.before()
        try:
            save(state, self.folder, self.keep)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: the checkpoint of round {state.round} cannot be written: {error.strerror}"
            ) from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("round-*.npz") if _NAME.fullmatch(path.name))


def _arrays(state: ServerState) -> dict[str, Any]:
    arrays = {field.name: getattr(state, field.name) for field in fields(state) if field.name != "extras"}
    if arrays["momentum"] is None:
        del arrays["momentum"]
    return {"format": FORMAT} | arrays | {_EXTRA + name: value for name, value in state.extras.items()}


def _read(path: Path, content: bytes) -> ServerState:
    """Return the state in a file whose content matches its hash; a forged or foreign one may still not be a state."""
    try:
        arrays: dict[str, Any] = npz.read(io.BytesIO(content))
        if (version := int(arrays.pop("format", 1))) > FORMAT:
            raise CheckpointError(f"resume: {path} has format {version}; this version of Echelon reads up to {FORMAT}")
        if version == 1 and "rows" in arrays:
            workers = len(arrays["rows"])
            arrays |= {"exact": np.empty((workers, 0), np.uint8), "optimizer": np.empty((workers, 0), np.float32)}
        _check(arrays)
        return _state(arrays)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"resume: {path} is not a checkpoint: {reason}") from error


def _check(arrays: dict[str, Any]) -> None:
    """Raise a ValueError that names a member that is missing, of a wrong type or of a wrong shape."""
    missing = [name for name in (*_BY_RANK, *_NUMBERS) if name not in arrays and name != "momentum"]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    for name in sorted(arrays, key=lambda name: name != "rows"):  # rows first: they give the number of workers
        value = arrays[name]
        if name in _NUMBERS:
            if value.shape != () or value.dtype.kind not in _NUMBERS[name]:
                raise ValueError(f"{name} must be a number; got {value.dtype} of shape {value.shape}")
        elif name in _BY_RANK:
            (dtype, axes), workers = _BY_RANK[name], arrays["rows"].shape[:1]
            if value.shape[:1] != workers or value.ndim != 1 + axes or value.dtype != dtype:
                raise ValueError(f"{name} must hold {dtype} of every worker; got {value.dtype} of shape {value.shape}")
        elif not name.startswith(_EXTRA):
            raise ValueError(f"unknown member {name}")


def _state(arrays: dict[str, Any]) -> ServerState:
    extras = {name.removeprefix(_EXTRA): arrays.pop(name) for name in list(arrays) if name.startswith(_EXTRA)}
    values = {name: value.item() if value.ndim == 0 else value for name, value in arrays.items()}
    return ServerState(**{"momentum": None, **values}, extras=extras)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
