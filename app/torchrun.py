"""A run without a server in processes that ``torchrun`` has started: what these must agree on, and where files are.

The first process writes the run's folder. A machine that does not share it has a folder of the same name, with the
configuration and its own workers' part of the checkpoints.
"""

import os
import pickle
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

from app import peer
from app.conductor import Conductor
from conf import Config, ConfigError, first_difference, groups, to_yaml
from echelon.core.printable import printable
from echelon.engines import torchrun
from echelon.engines.member import in_one_line
from echelon.engines.torch import ProcessFailedError
from echelon.engines.torchrun import EndedError, LostError, Rank
from echelon.persistent import processes, signals
from echelon.server import shards
from echelon.server.checkpoint import CheckpointError
from strategies import Partition, RunStoppedError, ServerState

_INVALID, _FAILED, _STOPPED = 2, 1, 143
_LAST_WORDS_SECONDS = 0.5


class Team:
    """One process of a run, and what all of them have agreed on.

    Parameters
    ----------
    rank : Rank
        This process.
    config : Config
        As this process was given it.
    check : callable
        Checks it on this machine.

    Attributes
    ----------
    config : Config
        With the run's folder; an earlier run is resumed if torchrun has started all processes again.

    Raises
    ------
    ConfigError
        If a process was given another configuration, or has refused it.
    """

    def __init__(self, rank: Rank, config: Config, check: Callable[[Config], None]) -> None:
        self._rank = rank
        self.config = self._agreed(config, check)
        assert self.config.run_dir is not None
        self._path = Path(self.config.run_dir)
        self._states, self._missing = self._saved()

    def newest(self, folder: Path) -> int:
        """Return the round of the checkpoint that all processes can continue from."""
        if not self._states:
            raise CheckpointError(
                f"resume: no checkpoint in {folder} of which every process has its workers' part"
                + (f"; {self._missing}" if self._missing else "")
            )
        return self._states[0].round

    def lead(self, stop: Event, make_clients: peer.MakeClients) -> peer.Launch:
        """Return what does the run once the partition is known, in the first process, whose folder is open."""
        self._rank.remember(str(self._path))
        self._look_for_folder()

        def launch(partition: Partition, conductor: Conductor) -> None:
            self._rank.stops_with(stop)
            self._rank.lead(conductor)
            self._rank.collect(pickle.dumps(partition))
            try:
                self._serve(partition, make_clients, has_folder=True)
            except LostError as error:
                if stop.is_set():
                    raise RunStoppedError("the run was stopped") from error
                raise ProcessFailedError(str(error)) from error
            if stop.is_set():
                raise RunStoppedError("the run was stopped")

        return launch

    def follow(self, make_clients: peer.MakeClients) -> int:
        """Do the run in any process but the first, which says what there is to say; return the exit status."""
        stop = Event()
        self._rank.stops_with(stop)
        with signals.graceful(stop, lambda: f"rank {self._rank.process}: interrupted", lambda line: None):
            try:
                has_folder = self._look_for_folder()
                partition: Partition = pickle.loads(self._rank.collect(b"")[0])
                self._serve(partition, make_clients, has_folder)
            except EndedError as ended:
                return ended.status
            except LostError as error:
                return _STOPPED if stop.is_set() else self._fail(str(error))
            except Exception as error:
                traceback.print_exc()
                reason = in_one_line(error)
                return self._fail(reason if reason.startswith("worker") else f"rank {self._rank.process}: {reason}")
        return _STOPPED if stop.is_set() else 0

    def _fail(self, reason: str) -> int:
        """End this process; the first one says why, unless it is lost."""
        if not self._rank.fail(reason):
            print(f"error: {printable(reason)}", file=sys.stderr)
        return _FAILED

    def _serve(self, partition: Partition, make_clients: peer.MakeClients, has_folder: bool) -> None:
        state = self._states[0] if self._states else None
        if not has_folder:
            shards.forget_after(0 if state is None else state.round, self._path / "checkpoint", self._rank.local)
        saved = peer.Saved(state, None if has_folder else self.config.checkpoint_keep + 1)
        peer.serve(self.config, partition, make_clients, self._path, saved, self._rank)

    def _agreed(self, config: Config, check: Callable[[Config], None]) -> Config:
        """Return the configuration of all, after every process has checked it."""
        problem = None
        if config.task.download and os.environ["LOCAL_RANK"] == "0":
            problem = _problem(config, check)
        self._rank.collect(b"")  # one process of each machine fetches data, and the others find it
        if not config.task.download or os.environ["LOCAL_RANK"] != "0":
            problem = _problem(config, check)
        pieces = self._rank.collect(pickle.dumps((config, problem)))
        said: dict[int, tuple[Config, str | None]] = {rank: pickle.loads(piece) for rank, piece in pieces.items()}
        first = said[0][0]
        for rank, (other, refused) in said.items():
            if refused is not None:
                raise ConfigError(refused if rank == 0 else f"rank {rank}: {refused}")
            key = first_difference(first, other) or ("rounds" if first.rounds != other.rounds else None)
            if key is not None:
                raise ConfigError(f"every torchrun must be given the same configuration; {key} differs at rank {rank}")
        earlier = self._rank.earlier
        if earlier is None:
            return replace(first, task=config.task)  # data may lie elsewhere on every machine
        if self._rank.is_first:
            print(f"torchrun has started the processes again; the run in {earlier} goes on", file=sys.stderr)
        return replace(first, task=config.task, run_dir=earlier, resume=earlier)

    def _saved(self) -> tuple[list[ServerState], str]:
        """Return the checkpoints, newest first, of which all processes have their workers' part; what is missing."""
        if self.config.resume is None:
            return [], ""
        if self._rank.is_first and not (self._path / "metrics.jsonl").exists():
            raise ConfigError(
                f"resume: {self._path} on the machine of rank 0 is not the run's folder; start with the --node-rank of "
                "before, or share the folder"
            )
        folder = self._path / "checkpoint"
        states: list[ServerState] = pickle.loads(
            self._rank.collect(pickle.dumps(shards.numbers(folder) if self._rank.is_first else []))[0]
        )
        missing = [shards.missing(state, folder, self._rank.local) for state in states]
        lists = {rank: pickle.loads(piece) for rank, piece in self._rank.collect(pickle.dumps(missing)).items()}
        whole = [state for place, state in enumerate(states) if all(found[place] is None for found in lists.values())]
        lacking = [f"rank {rank} lacks {path}" for rank, found in lists.items() for path in found if path is not None]
        return whole, lacking[0] if lacking else ""

    def _look_for_folder(self) -> bool:
        """Return whether this machine shares the run's folder; make one if it does not."""
        mark = self._path / f"shared-{uuid.uuid4().hex}"
        if self._rank.is_first:
            mark.touch()
        mark = mark.with_name(self._rank.collect(mark.name.encode())[0].decode())
        is_shared = mark.exists()
        self._rank.collect(b"")
        if self._rank.is_first:
            mark.unlink()
        if not is_shared:
            self._make_folder()
        return is_shared

    def _make_folder(self) -> None:
        if self.config.resume is None and (self._path / "checkpoint").exists():
            raise ValueError(f"{self._path}: already contains a run on this machine; choose another run_dir")
        self._path.mkdir(parents=True, exist_ok=True)
        if os.environ["LOCAL_RANK"] == "0":
            (self._path / "config.yaml").write_text(
                to_yaml(replace(self.config, resume=None, run_dir=str(self._path))), encoding="utf-8"
            )


def is_meant(config: Config) -> bool:
    """Return whether torchrun has started this process for ``engine=torch``."""
    return isinstance(config.engine, groups.Torch) and torchrun.is_started()


def run(
    config: Config,
    check: Callable[[Config], None],
    make_clients: peer.MakeClients,
    lead: Callable[[Config, Team], int],
) -> int:
    """Do the run in this process; return its exit status. The first process leads it: (config, team) -> status."""
    _require_store()
    peer.check_size(config)
    processes.end_with_parent()  # torchrun may be killed, and would leave this process behind
    assert isinstance(config.engine, groups.Torch)
    rank, status = Rank(config.workers, config.engine.timeout), _FAILED
    try:
        team = Team(rank, config, check)
        status = lead(team.config, team) if rank.is_first else team.follow(make_clients)
    except EndedError as ended:
        status = ended.status
    except ConfigError:
        status = _INVALID
        if rank.is_first:
            raise
        rank.fail("")
        time.sleep(_LAST_WORDS_SECONDS)  # the first process says why, unless its agent ends it because this one has
    finally:
        rank.close(status)
    return status


def _require_store() -> None:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise ConfigError(
            "engine=torch needs the store of torchrun's agents: unset TORCH_DISABLE_SHARE_RDZV_TCP_STORE, and use "
            "--rdzv-backend c10d or static"
        )


def _problem(config: Config, check: Callable[[Config], None]) -> str | None:
    try:
        check(config)
    except ConfigError as error:
        return str(error)
    return None
