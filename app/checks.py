"""Checks made before anything starts: the configuration's objects are built, and their errors reported in one line.

A rule on values stands in the constructor of the object that needs it; the configuration checks names, types and
ranges.
"""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import numpy as np

import tasks
from app import memory, peer, strategy
from app.batching import batched
from app.features import check_model_path
from app.fleet import make_fleet
from app.partition import build_partitioner, capability_ratios, compares_features, is_local, to_partition
from app.task import initial_model, load_task
from clients.devices import resolve
from conf import Config, ConfigError, groups
from echelon.algorithms.seeds import rng
from echelon.reports.stopping import StopAt
from partitioners import FilePartitioner
from strategies import Options, Roster
from tasks import Shape, Task


def check(config: Config, *, deployed: bool = False) -> None:
    """Build the strategy, fleet and partitioner, load the data, and compare it with the rest of the configuration.

    Parameters
    ----------
    config : Config
        The run's configuration.
    deployed : bool
        Whether the workers, and so their devices, are on other machines.

    Raises
    ------
    ConfigError
        If a choice or value does not go with another, data is missing or does not match the configuration, the device
        does not exist, or the run does not fit into the free memory.
    """
    if not deployed:
        with _in_one_line("device"):
            resolve(config.device)
    with _in_one_line("workers"):
        memory.require_graphs(config)
    _check_optimizer(config, deployed)
    if config.nodes and not deployed:
        raise ConfigError(f"nodes must be empty in a simulation, whose nodes have random ids; got {config.nodes}")
    _check_strategy(config, deployed)
    _check_engine(config)
    check_model_path(config)
    with _in_one_line("stop_at"):
        if config.stop_at is not None:
            StopAt.parse(config.stop_at)
    with _in_one_line("fleet.path"):
        make_fleet(config)
    if isinstance(config.partitioner.ratios, list):
        with _in_one_line("partitioner.ratios"):
            capability_ratios(config, Roster([], []))
    if is_local(config):  # the data is at the workers
        if (known := tasks.REGISTRY[config.task.name].shape) is not None:
            _check_memory(config, known, deployed)
        return
    with _in_one_line("task.root"):
        task = load_task(config, config.task.root)
        model = tasks.MODELS[config.model.name]
        if not model.fits(task.input_shape):
            tasks.build_model(config.model.name, task)
        if config.resume is None:
            initial_model(config)
    if len(task.train) < config.workers:
        raise ConfigError(
            f"workers must be at most the {len(task.train)} training samples of task={config.task.name}; "
            f"got {config.workers}"
        )
    _check_memory(config, Shape(task.input_shape, task.num_classes), deployed)
    _check_partitioner(config, task)


def _check_memory(config: Config, shape: Shape, deployed: bool) -> None:
    with _in_one_line("model"):
        memory.require_rows(config, shape, peer.share_here(config))
        if not deployed:
            memory.require_batches(config, shape)


def _check_engine(config: Config) -> None:
    engine = config.engine
    if not isinstance(engine, groups.Batching) or engine.batched is not True or batched(config):
        return
    needed = f"a strategy that waits for its workers, which strategy={config.strategy.name} does not"
    if not isinstance(config.strategy, groups.Asynchronous):
        needed = f"a simulated clock under engine={engine.name}, and not clock=wall"
    raise ConfigError(f"engine.batched=true needs {needed}; use engine.batched=auto")


def _check_optimizer(config: Config, deployed: bool) -> None:
    """Compare the optimiser with what it has to go with."""
    optimizer = config.optimizer
    if optimizer.state == "worker" and isinstance(config.engine, groups.Ray) and not deployed:
        raise ConfigError(
            "optimizer.state=worker needs workers that stay in their processes, which those of engine=ray do not; "
            "use engine=inline or optimizer.state=server"
        )


def _check_strategy(config: Config, deployed: bool) -> None:
    """Build the strategy and lay out its graphs for shards of equal size."""
    try:
        built = strategy.build(config, Options(held_out_loss=lambda arrays: 0.0))
        built.check_optimizer(config.optimizer.name, config.optimizer.state)
        if not deployed:
            peer.check(config, built)
        built.lay_out(config.workers, np.ones(config.workers, dtype=np.int64))
    except ValueError as error:
        names_its_key = re.split(r"[.=\s]", str(error))[0] in {field.name for field in fields(Config)}
        subject = "" if names_its_key else f"topology={config.topology.name}: "
        raise ConfigError(f"{subject}{error}") from error


def _check_partitioner(config: Config, task: Task) -> None:
    """Build the partitioner; compare it, or a saved partition, with the data, unless a resumed run keeps its own."""
    pool = to_partition(config, len(task.train))
    with _in_one_line("partitioner.path"):
        partitioner = build_partitioner(config, task, pool)
        labels = task.train.y.numpy()[pool]
        if config.resume is not None:
            return
        if compares_features(config):
            memory.require_features(config, task)
        partitioner.check_memory(labels, config.workers)
        if isinstance(partitioner, FilePartitioner):
            partitioner(labels, [1.0] * config.workers, rng(config.seed, "partition"))


@contextmanager
def _in_one_line(key: str) -> Iterator[None]:
    """Turn an error in the body, which reads the file named by ``key``, into a ConfigError."""
    try:
        yield
    except tasks.DataNotFound as error:
        raise ConfigError(str(error)) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{key} cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
