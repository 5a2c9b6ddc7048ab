"""Checks that need data and devices, made before anything starts; an error is one line."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

import tasks
from app.fleet import make_fleet
from app.partition import build_partitioner, held_out, is_local
from app.task import load_task
from conf import Config, ConfigError
from echelon.algorithms.seeds import rng
from partitioners import FilePartitioner
from tasks import Task


def check(config: Config, *, deployed: bool = False) -> None:
    """Load the data and compare it with the rest of the configuration.

    Parameters
    ----------
    config : Config
        The run's configuration.
    deployed : bool
        Whether the workers, and so their devices, are on other machines.

    Raises
    ------
    ConfigError
        If data is missing or does not match the configuration, or the device does not exist.
    """
    if config.device == "cuda" and not deployed and not torch.cuda.is_available():
        raise ConfigError("device=cuda needs a CUDA device and none is visible; use device=cpu or device=auto")
    with _in_one_line("fleet.path"):
        make_fleet(config)
    if is_local(config):
        return  # the data is at the workers
    with _in_one_line("task.root"):
        task = load_task(config, config.task.root)
        model = tasks.MODELS[config.model.name]
        if not model.fits(task.input_shape):
            tasks.build_model(config.model.name, task)
    if len(task.train) < config.workers:
        raise ConfigError(
            f"workers must be at most the {len(task.train)} training samples of task={config.task.name}; "
            f"got {config.workers}"
        )
    _check_partitioner(config, task)


def _check_partitioner(config: Config, task: Task) -> None:
    """Build the partitioner; compare a saved partition with the data, unless a resumed run keeps its own."""
    pool = np.setdiff1d(np.arange(len(task.train)), held_out(config, len(task.train)))
    with _in_one_line("partitioner.path"):
        partitioner = build_partitioner(config, task, pool)
        if isinstance(partitioner, FilePartitioner) and config.resume is None:
            partitioner(task.train.y.numpy()[pool], [1.0] * config.workers, rng(config.seed, "partition"))


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
