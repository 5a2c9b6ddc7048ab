"""Checkpoints of a run whose models are in several processes: a file for each worker, and one that names them.

The latter is a checkpoint with empty rows, written after all others: a kill at any moment leaves the earlier ones.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.supercore import log

from echelon.core.operations import consensus
from echelon.core.tally import Tally
from echelon.protocol.messages import MEMORY
from echelon.server import checkpoint_file
from echelon.server.checkpoint_file import CheckpointError
from echelon.server.state import ServerState

_SHARDS = "shards"
_LARGE = ("rows", "exact", "momentum", "optimizer")


def save(state: ServerState, folder: Path, rank: int, keep: int | None = None) -> str:
    """Write the state of one worker into a folder of its own; return the file's name.

    Parameters
    ----------
    state : ServerState
        Of one worker: arrays by rank have one row.
    folder : Path
        Of the checkpoints.
    rank : int
        The worker.
    keep : int, optional
        Newest files to keep; by default all, until :func:`commit` removes what no checkpoint needs.
    """
    folder.mkdir(exist_ok=True)
    return checkpoint_file.save(state, _of(folder, rank), keep).name


def commit(tally: Tally, files: Mapping[int, str], folder: Path, keep: int, **more: Any) -> None:
    """Make the workers' files a checkpoint; remove all but the newest ``keep``, with the files that they alone need.

    Parameters
    ----------
    tally : Tally
        Of all workers.
    files : mapping of int to str
        The file of each worker, as :func:`save` returned it; none of a worker that was never saved.
    folder : Path
        Of the checkpoints.
    keep : int
        Newest checkpoints to keep.
    **more : Any
        Further members of :class:`ServerState`.
    """
    size = len(tally.losses)
    listed = np.array([files.get(rank, "") for rank in range(size)])
    rows, exact = np.empty((size, 0), np.float32), np.empty((size, 0), np.uint8)
    more["extras"] = {**more.get("extras", {}), _SHARDS: listed}
    numbers: dict[str, Any] = {**vars(tally), **more}
    state = ServerState(rows=rows, exact=exact, momentum=None, optimizer=rows.copy(), **numbers)
    checkpoint_file.save(state, folder, keep)
    found = [checkpoint_file.load(path) for path in checkpoint_file.listed(folder)]
    kept = [one.extras.get(_SHARDS) for one in found if one is not None]
    for rank in range(size):
        needed = {str(listed[rank]) for listed in kept if listed is not None}
        for path in checkpoint_file.listed(_of(folder, rank)):
            if path.name not in needed:
                path.unlink()


def of_workers(state: ServerState, folder: Path, ranks: Collection[int] | None = None) -> ServerState | None:
    """Return a checkpoint's state with the rows of some workers, by default all; None if a file of theirs is damaged.

    A worker that was never saved starts from the mean of the others, without momentum. A checkpoint in one file is
    returned as it is.
    """
    chosen = list(range(len(state.losses)) if ranks is None else ranks)
    extras = dict(state.extras)
    files = extras.pop(_SHARDS, None)
    if files is None:
        return state
    known = {rank: _of(folder, rank) / Path(str(name)).name for rank, name in enumerate(files) if name}
    missing = [rank for rank in chosen if rank not in known]
    found: dict[int, ServerState] = {}
    for rank in known if missing else chosen:
        path = known[rank]
        shard = checkpoint_file.load(path) if path.exists() else None
        if shard is None:
            return None
        found[rank] = shard
    if missing and not found:
        return None
    found |= dict.fromkeys(missing, mean(list(found.values()))) if missing else {}
    states = [found[rank] for rank in chosen]
    stacked: dict[str, Any] = {name: _stack([getattr(one, name) for one in states]) for name in _LARGE}
    extras |= {name: _stack([one.extras.get(name) for one in states]) for name in states[0].extras}
    return replace(state, **stacked, extras=extras)


def numbers(folder: Path) -> list[ServerState]:
    """Return what the whole checkpoints say beside the workers' models, newest first; see :func:`of_workers`."""
    found = (checkpoint_file.load(path) for path in reversed(checkpoint_file.listed(folder)))
    return [state for state in found if state is not None and _SHARDS in state.extras]


def missing(state: ServerState, folder: Path, ranks: Collection[int]) -> str | None:
    """Return a file that :func:`of_workers` needs and a folder lacks or has damaged; None if it has all."""
    files = [Path(str(name)).name for name in state.extras[_SHARDS]]
    known = [rank for rank, name in enumerate(files) if name]
    for rank in ranks if set(ranks) <= set(known) else known:
        path = _of(folder, rank) / files[rank]
        if not path.is_file() or checkpoint_file.load(path) is None:
            return str(path)
    return None


def newest(folder: Path) -> ServerState:
    """Return what the newest checkpoint says beside the workers' models of which a folder has every worker's file.

    Raises
    ------
    CheckpointError
        If there is none; the line names the newest file that is missing or damaged.
    """
    lacking = None
    for state in numbers(folder):
        path = missing(state, folder, range(len(state.losses)))
        if path is None:
            return state
        log(WARNING, "%s is missing or damaged: the checkpoint of round %d is skipped", path, state.round)
        lacking = lacking or path
    paths = checkpoint_file.listed(folder)
    if not paths:
        raise CheckpointError(f"resume: no checkpoint in {folder}; run with checkpoint_every above 0 to write some")
    raise CheckpointError(f"resume: no whole checkpoint in {folder}; {lacking or paths[-1]} is missing or damaged")


def forget_after(round_number: int, folder: Path, ranks: Collection[int]) -> None:
    """Remove checkpoints of later rounds, which are done again, with the files of some workers."""
    for place in (folder, *(_of(folder, rank) for rank in ranks)):
        for path in checkpoint_file.listed(place):
            if checkpoint_file.round_of(path) > round_number:
                path.unlink()


def names(folder: Path) -> dict[int, str]:
    """Return the workers' files in the newest whole checkpoint, by rank; none if there is none."""
    for path in reversed(checkpoint_file.listed(folder)):
        if (state := checkpoint_file.load(path)) is not None:
            return {rank: str(name) for rank, name in enumerate(state.extras.get(_SHARDS, ())) if name}
    return {}


def mean(states: list[ServerState]) -> ServerState:
    """Return the state of a worker that starts from the mean of others, each of one worker."""
    first = states[0]
    row = consensus(np.concatenate([one.rows for one in states]))
    momentum = None if first.momentum is None else np.zeros_like(first.momentum)
    extras = {name: np.full_like(value, np.nan if name == MEMORY else 0) for name, value in first.extras.items()}
    return replace(
        first, rows=row[None], momentum=momentum, optimizer=np.full_like(first.optimizer, np.nan), extras=extras
    )


def tally_of(state: ServerState) -> Tally:
    """Return the numbers of all workers in a state."""
    return Tally(**{field.name: getattr(state, field.name) for field in fields(Tally)})


def _stack(values: list[Any]) -> Any:
    return None if any(value is None for value in values) else np.concatenate(values)


def _of(folder: Path, rank: int) -> Path:
    return folder / f"worker-{rank}"
