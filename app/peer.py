"""A run without a server, composed from the configuration (``engine=torch``)."""

import logging
import os
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import torch
from flwr.app import ArrayRecord

from app import results, strategy
from app.conductor import Conductor
from app.evaluation import evaluated_workers, make_evaluation
from app.fleet import make_fleet
from app.partition import make_partition
from app.task import build_model, initial_model, load_task
from clients import WorkerApp
from clients.devices import resolve
from conf import Config, ConfigError, config_hash, groups
from echelon.engines import kept, torchrun
from echelon.engines import torch as engine
from echelon.engines.member import Member
from echelon.engines.member import serve as serve_steps
from echelon.engines.peers import Parts, PeerRun
from echelon.engines.torchrun import Rank
from echelon.persistent import signals
from echelon.protocol.messages import RosterEntry
from echelon.reports import models, tracking
from echelon.reports.progress import Progress
from echelon.reports.run_folder import RunFolder
from echelon.reports.summary import summarise
from echelon.server import checkpoint, shards
from strategies import FlowerStrategy, Options, Partition, Roster, ServerState

MakeClients = Callable[[Config, Callable[[], bool]], WorkerApp]
Launch = Callable[[Partition, Conductor], None]


@dataclass(frozen=True)
class Saved:
    """What all processes know of checkpoints when the run begins.

    Attributes
    ----------
    state : ServerState, optional
        What the one to continue from says beside the workers' models, which are in the folder.
    keep : int, optional
        The files to keep of each worker, where no other process looks after them.
    """

    state: ServerState | None
    keep: int | None = None


def check(config: Config, built: FlowerStrategy) -> None:
    """Check that a run can do without a server; do nothing for other engines.

    Raises
    ------
    ConfigError
        If the strategy needs one, or a key asks for what this engine cannot do.
    """
    if not isinstance(config.engine, groups.Torch):
        return
    if config.wire != "fp32":
        raise ConfigError(
            f"wire must be fp32 with engine=torch, where a row that neighbours mix is nowhere kept in full precision; "
            f"got {config.wire}"
        )
    if built.needs_server:
        raise ConfigError(f"engine=torch cannot run strategy={config.strategy.name}: {built.needs_server}")
    if (rank := os.environ.get("LOCAL_RANK")) is not None and not torchrun.is_started():
        raise ConfigError(
            "engine=torch starts its processes itself, unless torchrun does, which sets TORCHELASTIC_RUN_ID; got "
            f"LOCAL_RANK={rank} without it"
        )
    count, workers = config.engine.processes, config.workers
    if torchrun.is_started():
        check_size(config)
    elif count is not None and count > workers:
        raise ConfigError(f"engine.processes must be at most workers={workers}; got {count}")
    elif count is not None and is_wall(config) and count < workers:
        raise ConfigError(
            f"engine.processes must be workers={workers} with clock=wall, so that all workers compute at once; "
            f"got {count}"
        )


def check_size(config: Config) -> None:
    """Compare the configuration with the number of processes that torchrun has started; raises as :func:`check`."""
    assert isinstance(config.engine, groups.Torch)
    size = torchrun.size()
    if config.engine.processes not in (None, size):
        raise ConfigError(
            f"engine.processes must be null or the {size} processes of torchrun; got {config.engine.processes}"
        )
    if size > config.workers:
        raise ConfigError(f"workers must be at least the {size} processes of torchrun; got {config.workers}")
    if size < config.workers and is_wall(config):
        raise ConfigError(
            f"workers must be the {size} processes of torchrun with clock=wall, so that all workers compute at once; "
            f"got {config.workers}"
        )


def is_wall(config: Config) -> bool:
    """Return whether rounds are measured in real time."""
    return config.clock == "wall"


def share_here(config: Config) -> float:
    """Return the share of the workers that is on this machine."""
    if isinstance(config.engine, groups.Torch) and torchrun.is_started():
        return int(os.environ["LOCAL_WORLD_SIZE"]) / torchrun.size()
    return 1.0


def num_processes(config: Config) -> int:
    """Return how many processes the workers share."""
    assert isinstance(config.engine, groups.Torch)
    if torchrun.is_started():
        return torchrun.size()
    if config.engine.processes is not None:
        return config.engine.processes
    if is_wall(config):
        return config.workers
    available = torch.cuda.device_count() if resolve(config.device) == "cuda" else os.cpu_count()
    return min(config.workers, available or 1)


def newest(folder: Path) -> int:
    """Return the round of the checkpoint that all processes can continue from; raises CheckpointError for none."""
    return shards.newest(folder).round


def run(
    config: Config,
    folder: RunFolder,
    view: Progress,
    stop: Event,
    make_clients: MakeClients,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Train as configured, write the run folder, return the summary.

    Parameters
    ----------
    config : Config
        Checked, with ``engine=torch``.
    folder, view
        Of the run.
    stop : threading.Event
        Ends the run.
    make_clients : callable
        (config, is_over) -> the ClientApp, in each process; a function of a module.
    launch : callable, optional
        (partition, conductor) -> None: does the run in its processes, by default in those that it starts.

    Raises
    ------
    ProcessFailedError
        If a worker fails, or all processes are lost.
    RunStoppedError
        If ``stop`` is set.
    """
    with view.stage("Loading data"), signals.interruptible():
        task = load_task(config, config.task.root)
    with signals.interruptible():
        partition = make_partition(config, task, folder.path, view, _roster(config))
    owners = engine.owners(config.workers, num_processes(config))
    tracker = tracking.make(config.tracking, folder.path, asdict(config))
    report, summary = results.recorder(folder, tracker, view), None
    view.start(config.rounds, config.workers)
    assert isinstance(config.engine, groups.Torch)
    try:
        with ExitStack() as waiting:
            waiting.enter_context(view.stage(f"Starting {owners[-1] + 1} processes"))

            def hear(record: dict[str, Any]) -> None:
                waiting.close()
                report(record)

            conductor = Conductor(config, folder, hear, stop, owners)
            if launch is None:
                known = shards.numbers(folder.path / "checkpoint")  # that of the round which the conductor has reached
                saved = Saved(known[0] if known else None)
                work = partial(serve, config, partition, make_clients, folder.path, saved)
                engine.run(work, owners, conductor, stop=stop, timeout=config.engine.timeout)
            else:
                launch(partition, conductor)
        summary = summarise(RunFolder.open(folder.path), conductor.samples, config_hash(config))
        folder.write_summary(summary)
    finally:
        tracker.close(summary)
    return summary


def serve(
    config: Config,
    partition: Partition,
    make_clients: MakeClients,
    path: Path,
    saved: Saved,
    group: Member | Rank,
) -> None:
    """Do the run of one process's workers."""
    if group.process > 0:
        logging.getLogger("flwr").setLevel(logging.WARNING)  # the first process logs for all
    if resolve(config.device) == "cuda":
        place = int(os.environ.get("LOCAL_RANK", group.process))
        torch.cuda.set_device(place % torch.cuda.device_count())
    continues = saved.state is not None or checkpoint.exists(path / "checkpoint")
    task = load_task(config, config.task.root)
    model = build_model(config) if continues else initial_model(config)
    arrays, evaluation = ArrayRecord(model.state_dict()), make_evaluation(config, task, model)
    built = strategy.build(config, Options(held_out_loss=evaluation.held_out_loss), wall_clock=is_wall(config))
    parts = Parts(
        built,
        lambda is_over: make_clients(config, is_over).answer,
        arrays,
        partition,
        evaluation,
        evaluated_workers(config, task),
        is_wall(config),
    )
    run = PeerRun(parts, group, group.interruptible)
    steps = Steps(run, group, path, saved, stops_early=config.stop_at is not None)
    serve_steps(group, steps.by_name(), run.keep, run.undo)


class Steps:
    """What the conductor may ask a process for, given its workers, the run's folder, and whether it may stop early."""

    def __init__(self, run: PeerRun, group: Member | Rank, path: Path, saved: Saved, stops_early: bool = False) -> None:
        self._run, self._group, self._folder = run, group, RunFolder(path)
        self._stops_early = stops_early
        self._checkpoints, self._keep = path / "checkpoint", saved.keep
        self._has_model = True
        if group.process in group.fresh:
            self._come_back()
        elif saved.state is not None:
            self._go_on(saved.state)

    def by_name(self) -> dict[str, Callable[[], Any]]:
        """Return the steps by name."""
        steps = (self.join, self.round, self.save, self.best, self.evaluate, self.close)
        return {step.__name__: step for step in steps}

    def join(self) -> None:
        """Let the processes that were restarted know the run."""
        fresh = self._group.fresh
        kept.join(self._run, fresh, self._group.process in fresh and not self._has_model)

    def round(self) -> dict[str, Any]:
        """Do a round; return its record."""
        return self._run.attempt()

    def save(self) -> tuple[dict[int, str], kept.Shared] | None:
        """Write the state of this process's workers, unless it has not come to know the run yet."""
        if self._group.process in self._group.fresh:
            return None
        self._checkpoints.mkdir(exist_ok=True)  # without parents: the run's folder may have been moved away
        return kept.save(self._run, self._checkpoints, self._keep), kept.Shared.of(self._run)

    def best(self) -> None:
        """Keep the consensus model as that of the best round; with ``stop_at``, also each worker's own."""
        record = self._last()
        self._write_consensus("best_round", record)
        if self._stops_early:
            self._write_own("_best_round", record)

    def evaluate(self) -> dict[str, Any]:
        """Evaluate the models; return the fields of the last round's record."""
        return self._run.evaluate()

    def close(self) -> None:
        """Write the models of the last round; each worker's own lies where the worker is."""
        record = self._last()
        self._write_consensus("consensus", record)
        self._write_own("", record)
        rank = models.best_worker(record)
        if rank is None or self._group.owners[rank] not in self._group.members:
            return
        arrays = self._run.model(rank)
        if self._group.is_first:
            models.write(self._folder, "best_worker", arrays, record, rank=rank)

    def _write_consensus(self, name: str, record: dict[str, Any]) -> None:
        arrays = self._run.consensus()
        if self._group.is_first:
            models.write(self._folder, name, arrays, record)

    def _write_own(self, suffix: str, record: dict[str, Any]) -> None:
        for rank, arrays in self._run.own_models().items():
            models.write(self._folder, f"worker_{rank}{suffix}", arrays, record, rank=rank)

    def _last(self) -> dict[str, Any]:
        """Return the record of the last round, which the first process has; every process must call it."""
        known = RunFolder.open(self._folder.path).metrics[-1] if self._group.is_first else None
        record: dict[str, Any] = pickle.loads(self._group.collect(pickle.dumps(known))[self._group.members[0]])
        return record

    def _go_on(self, state: ServerState) -> None:
        """Continue from the checkpoint that all processes continue from."""
        found = shards.of_workers(state, self._checkpoints, self._group.local)
        if found is None:
            path = shards.missing(state, self._checkpoints, self._group.local)
            raise checkpoint.CheckpointError(f"resume: {path} is missing or damaged")
        kept.load(self._run, found)

    def _come_back(self) -> None:
        """Take the models of the newest checkpoint that has them, if there is one; the others tell the rest."""
        try:
            kept.load(self._run, checkpoint.load(self._checkpoints, self._group.local))
        except (checkpoint.CheckpointError, OSError):
            self._has_model = False


def _roster(config: Config) -> Roster:
    """Return what is known of the workers before they have started: in real time, not even their speeds."""
    if is_wall(config):
        return Roster([RosterEntry(rank) for rank in range(config.workers)], [])
    speeds = [make_fleet(config).device(rank).samples_per_second for rank in range(config.workers)]
    return Roster([RosterEntry(rank, samples_per_second=speed) for rank, speed in enumerate(speeds)], [])
