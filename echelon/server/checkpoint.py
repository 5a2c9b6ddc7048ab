"""Checkpoints: the state of a run on disk, in one file, or without a server in one for each worker."""

from collections.abc import Callable, Collection
from copy import deepcopy
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.supercore import log

from echelon.server import checkpoint_file, shards
from echelon.server.checkpoint_file import CheckpointError, save
from echelon.server.state import ServerState

__all__ = ["CheckpointError", "Saver", "exists", "load", "save"]


def load(folder: Path, ranks: Collection[int] | None = None) -> ServerState:
    """Return the newest state in a folder whose content matches the hash in its name; damaged files are skipped.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.
    ranks : collection of int, optional
        Of the workers whose rows, and what goes with them, are wanted, ascending; by default all. The numbers of the
        tally are those of all workers in any case, and so are the rows of a checkpoint in one file.

    Raises
    ------
    CheckpointError
        If there is none, all are damaged, or the newest whole one is not a checkpoint that this version reads.
    """
    paths = checkpoint_file.listed(folder)
    for path in reversed(paths):
        state = checkpoint_file.load(path)
        if state is not None:
            state = shards.of_workers(state, folder, ranks)
        if state is not None:
            return state
        log(WARNING, "%s is damaged and is skipped", path)
    if paths:
        raise CheckpointError(f"resume: every checkpoint in {folder} is damaged; the newest is {paths[-1].name}")
    raise CheckpointError(f"resume: no checkpoint in {folder}; run with checkpoint_every above 0 to write some")


def exists(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, judged by the names of its files."""
    return bool(checkpoint_file.listed(folder))


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
