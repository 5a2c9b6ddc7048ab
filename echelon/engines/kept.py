"""What the processes of a run without a server keep beyond a round: checkpoints, and what a restarted one learns."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.core.mixing import Leaders
from echelon.core.tally import Tally
from echelon.engines import measured
from echelon.engines.peers import PeerRun
from echelon.engines.site import Held
from echelon.peer.exchange import Exchange
from echelon.peer.rounds import Kept
from echelon.protocol.messages import MEMORY
from echelon.server import shards
from echelon.server.checkpoint_file import CheckpointError
from echelon.server.state import ServerState
from echelon.server.vectors import LEADERS


@dataclass(frozen=True)
class Shared:
    """What all processes of a run know."""

    tally: Tally
    leaders: Leaders | None
    virtual_seconds: float
    wall_seconds: float

    @classmethod
    def of(cls, run: PeerRun) -> "Shared":
        """Return it after a round."""
        return cls(run.rounds.tally, run.rounds.leaders, run.virtual_seconds, run.wall_seconds)

    def tell(self, run: PeerRun) -> None:
        """Let a process know it."""
        vectors = {rank: run.rounds.vectors.of(rank) for rank in run.sites}
        run.rounds.restore(Kept(self.tally, self.leaders, None, 0.0, vectors))
        run.virtual_seconds, run.wall_seconds = self.virtual_seconds, self.wall_seconds

    def numbers(self) -> dict[str, Any]:
        """Return what a checkpoint says beside the tally."""
        leaders = self.leaders
        extras = {} if leaders is None else {LEADERS: np.stack([leaders.best, leaders.degree]).astype(np.int64)}
        seconds = {"virtual_seconds": self.virtual_seconds, "wall_seconds": self.wall_seconds}
        return seconds | {"extras": extras}


def save(run: PeerRun, folder: Path, keep: int | None = None) -> dict[int, str]:
    """Write the state of this process's workers, and keep so many files of each; return the files' names by rank.

    Raises
    ------
    CheckpointError
        If one cannot be written.
    """
    shared = Shared.of(run)
    try:
        return {rank: shards.save(_state(run, rank, shared), folder, rank, keep) for rank in run.sites}
    except OSError as error:
        raise CheckpointError(
            f"{folder}: the checkpoint of round {shared.tally.round} cannot be written: {error.strerror}"
        ) from error


def load(run: PeerRun, state: ServerState) -> None:
    """Continue from a checkpoint, which has the rows of this process's workers."""
    for place, (rank, site) in enumerate(run.sites.items()):
        momentum = None if state.momentum is None else state.momentum[place]
        site.held = Held(state.rows[place], state.exact[place], momentum, state.optimizer[place])
        vectors: dict[str, Tensor] = {
            name: torch.from_numpy(state.extras[name][place, run.layout.mixed].copy())
            for name in ("quasi_global", "tracking")
            if name in state.extras
        }
        if MEMORY in state.extras and not np.isnan(state.extras[MEMORY][place, 0]):
            vectors[MEMORY] = torch.from_numpy(state.extras[MEMORY][place].copy())
        run.rounds.vectors.put(rank, vectors)
    leaders = state.extras.get(LEADERS)
    found = None if leaders is None else Leaders(*leaders)
    Shared(shards.tally_of(state), found, state.virtual_seconds, state.wall_seconds).tell(run)


def join(run: PeerRun, fresh: Iterable[int], without_model: bool) -> None:
    """Let processes that were restarted know the run; their workers without a checkpoint get their neighbours' mean.

    Every process must call it.

    Parameters
    ----------
    run : PeerRun
        In this process.
    fresh : iterable of int
        The restarted processes.
    without_model : bool
        Whether this process is one of them, and has no checkpoint.
    """
    group, fresh = run.group, set(fresh)
    experienced = [process for process in group.members if process not in fresh]
    shared = Shared.of(run) if group.process == experienced[0] else None
    pieces = group.collect(pickle.dumps((shared, run.group.local if without_model else [])))
    told = {process: pickle.loads(piece) for process, piece in pieces.items()}
    if group.process in fresh:
        told[experienced[0]][0].tell(run)
    if missing := sorted(rank for _, ranks in told.values() for rank in ranks):
        _take_mean(run, missing)


def _take_mean(run: PeerRun, missing: list[int]) -> None:
    """Give workers the mean of their neighbours' models, or of all that are there."""
    group, round_number = run.group, run.rounds.tally.round + 1
    there = [rank for rank in np.flatnonzero(group.there).tolist() if rank not in missing]
    weights, donors = np.eye(group.num_workers), {}
    for rank in missing:
        near = set(run.rounds.strategy.neighbours(rank, round_number)) & set(there)
        donors[rank] = sorted(near) or there
        weights[rank] = np.isin(np.arange(group.num_workers), donors[rank]) / len(donors[rank])
    rows = {rank: torch.from_numpy(site.held.row) for rank, site in run.sites.items()}
    exchange = Exchange(rows, group)
    combined = exchange.combine(weights)
    models = run.models()
    beside = measured.exacts(models, run.layout, group) if run.layout.exact_size else {}
    for rank in set(missing) & set(run.sites):
        exact = models[rank][1]
        if beside:
            exact = run.layout.consensus_exact(np.stack([beside[donor] for donor in donors[rank]]))
        held = run.sites[rank].held
        has_momentum = held.momentum is not None
        run.sites[rank].held = Held.initial(run.layout, combined[rank].numpy(), exact, has_momentum)


def _state(run: PeerRun, rank: int, shared: Shared) -> ServerState:
    """Return the state of one worker."""
    held, tally = run.sites[rank].held, shared.tally
    numbers: dict[str, Any] = {
        name: value[[rank]] if isinstance(value, np.ndarray) else value for name, value in vars(tally).items()
    }
    extras: dict[str, NDArray[np.generic]] = {}
    if run.rounds.strategy.remembers:
        extras[MEMORY] = np.full((1, run.layout.num_parameters), np.nan, dtype=np.float32)
    for name, vector in run.rounds.vectors.of(rank).items():
        extras.setdefault(name, np.zeros((1, run.layout.num_parameters), dtype=np.float32))
        extras[name][0, : len(vector)] = vector.numpy()
    return ServerState(
        rows=held.row[None],
        exact=held.exact[None],
        momentum=None if held.momentum is None else held.momentum[None],
        optimizer=held.optimizer[None],
        virtual_seconds=shared.virtual_seconds,
        wall_seconds=shared.wall_seconds,
        extras=extras,
        **numbers,
    )
