"""A state in a file, written atomically and checked by hash when read.

It is one ``.npz`` file without pickled objects, ``round-<number>-<hash>.npz``; the name carries the start of the
content's SHA-256, so that a single rename makes it valid. Its member ``format`` numbers what the members mean.
"""

import hashlib
import io
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

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


def save(state: ServerState, folder: Path, keep: int | None = 3) -> Path:
    """Write a state into a folder and remove all but the newest ``keep`` (None: keep all); return the file.

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
    if keep is not None:
        for old in sorted(set(listed(folder)) - {path}, reverse=True)[keep - 1 :]:
            old.unlink()
    return path


def load(path: Path) -> ServerState | None:
    """Return the state in a file; None if the content does not match the hash in its name.

    Raises
    ------
    CheckpointError
        If it cannot be read, or is not a state that this version reads.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"resume: {path}: {error.strerror}") from error
    if path.name.split("-")[-1] != f"{hashlib.sha256(content).hexdigest()[:16]}.npz":
        return None
    return _read(path, content)


def listed(folder: Path) -> list[Path]:
    """Return the states in a folder by their names, oldest first."""
    return sorted(path for path in folder.glob("round-*.npz") if _NAME.fullmatch(path.name))


def round_of(path: Path) -> int:
    """Return the round of a state, by its name."""
    return int(path.name.split("-")[1])


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
