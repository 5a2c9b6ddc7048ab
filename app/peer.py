"""A run without a server on this machine, composed from the configuration (``engine=torch``)."""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from threading import Event
from typing import Any

import torch
from flwr.app import ArrayRecord

from app import results, strategy
from app.evaluation import evaluated_workers, make_evaluation
from app.fleet import make_fleet
from app.partition import make_partition
from app.task import initial_model, load_task
from clients import WorkerApp
from clients.devices import resolve
from conf import Config, ConfigError, config_hash, groups
from echelon.engines import torch as engine
from echelon.engines.peers import Parts, PeerRun
from echelon.peer.group import Group
from echelon.persistent import signals
from echelon.protocol.messages import RosterEntry
from echelon.reports import tracking
from echelon.reports.progress import Progress
from echelon.reports.run_folder import RunFolder
from echelon.reports.summary import summarise
from strategies import FlowerStrategy, Options, Partition, Roster

MakeClients = Callable[[Config, Callable[[], bool]], WorkerApp]


def check(config: Config, built: FlowerStrategy) -> None:
    """Check that a run can do without a server; do nothing for other engines.

    Raises
    ------
    ConfigError
        If the strategy needs one, or a key asks for what this engine cannot do.
    """
    if not isinstance(config.engine, groups.Torch):
        return
    if built.needs_server:
        raise ConfigError(f"engine=torch cannot run strategy={config.strategy.name}: {built.needs_server}")
    if config.resume is not None:
        raise ConfigError(f"resume must be null with engine=torch, which writes no checkpoints; got {config.resume}")
    if config.stop_at is not None:
        raise ConfigError(f"stop_at must be null with engine=torch; got {config.stop_at}")
    count = config.engine.processes
    if count is not None and count > config.workers:
        raise ConfigError(f"engine.processes must be at most workers={config.workers}; got {count}")
    if count is not None and is_wall(config) and count < config.workers:
        raise ConfigError(
            f"engine.processes must be workers={config.workers} with clock=wall, so that all workers compute at once; "
            f"got {count}"
        )


def remark(config: Config) -> str | None:
    """Return what is to be said before a run: a key of the configuration that has no effect; None for nothing."""
    if not isinstance(config.engine, groups.Torch) or not config.checkpoint_every:
        return None
    return f"engine=torch writes no checkpoints: checkpoint_every={config.checkpoint_every} has no effect"


def is_wall(config: Config) -> bool:
    """Return whether rounds are measured in real time."""
    return config.clock == "wall"


def num_processes(config: Config) -> int:
    """Return how many processes the workers share."""
    assert isinstance(config.engine, groups.Torch)
    if config.engine.processes is not None:
        return config.engine.processes
    if is_wall(config):
        return config.workers
    available = torch.cuda.device_count() if resolve(config.device) == "cuda" else os.cpu_count()
    return min(config.workers, available or 1)


def run(config: Config, folder: RunFolder, view: Progress, stop: Event, make_clients: MakeClients) -> dict[str, Any]:
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

    Raises
    ------
    ProcessFailedError
        If a worker fails, or its process is killed.
    RunStoppedError
        If ``stop`` is set.
    """
    with view.stage("Loading data"), signals.interruptible():
        task = load_task(config, config.task.root)
    with signals.interruptible():
        partition = make_partition(config, task, folder.path, view, _roster(config))
    owners = engine.owners(config.workers, num_processes(config))
    tracker = tracking.make(config.tracking, folder.path, asdict(config))
    report, samples, summary = results.recorder(folder, tracker, view), 0, None
    view.start(config.rounds, config.workers)
    try:
        with ExitStack() as waiting:
            waiting.enter_context(view.stage(f"Starting {owners[-1] + 1} processes"))

            def hear(record: dict[str, Any]) -> None:
                nonlocal samples
                waiting.close()
                report(record)
                samples += sum(filter(None, record["samples"]))

            work = partial(serve, config, partition, make_clients)
            engine.run(work, owners, hear, stop=stop, timeout=config.work.timeout)
        summary = summarise(RunFolder.open(folder.path), samples, config_hash(config))
        folder.write_summary(summary)
    finally:
        tracker.close(summary)
    return summary


def serve(
    config: Config,
    partition: Partition,
    make_clients: MakeClients,
    group: Group,
    say: Callable[[dict[str, Any]], None],
) -> None:
    """Do the run of one process's workers; the first process says the record of every round."""
    if group.process > 0:
        logging.getLogger("flwr").setLevel(logging.WARNING)  # the first process logs for all
    if resolve(config.device) == "cuda":
        torch.cuda.set_device(group.process % torch.cuda.device_count())
    task, model = load_task(config, config.task.root), initial_model(config)
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
    PeerRun(parts, group).run(say)


def _roster(config: Config) -> Roster:
    """Return what is known of the workers before they have started: in real time, not even their speeds."""
    if is_wall(config):
        return Roster([RosterEntry(rank) for rank in range(config.workers)], [])
    speeds = [make_fleet(config).device(rank).samples_per_second for rank in range(config.workers)]
    return Roster([RosterEntry(rank, samples_per_second=speed) for rank, speed in enumerate(speeds)], [])
