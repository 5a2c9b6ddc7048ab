"""The data and the model that a configuration asks for."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

import tasks
from conf import Config
from echelon.reports.models import load_into
from tasks import Task


def load_task(config: Config, root: str | None) -> Task:
    """Return a configuration's task, loaded once per process from ``root``."""
    keys = {name: value for name, value in vars(config.task).items() if name not in ("name", "root")}
    return _task(config.task.name, root, **keys)


def build_model(config: Config) -> nn.Module:
    """Return a configuration's model; the same values for the same seed."""
    shape = tasks.REGISTRY[config.task.name].shape
    return tasks.build_model(config.model.name, shape or load_task(config, config.task.root), seed=config.seed)


def initial_model(config: Config) -> nn.Module:
    """Return the model that a run starts from: a configuration's own, or that of ``model.init``.

    Raises
    ------
    ValueError
        If the file of ``model.init`` cannot be read or is of another model.
    """
    model = build_model(config)
    if config.model.init is not None:
        load_into(model, Path(config.model.init).expanduser())
    return model


class TaskData:
    """A task's training samples, normalised and augmented mini-batch by mini-batch."""

    def __init__(self, task: Task) -> None:
        self._split, self._augment = task.train, task.augment

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._split)

    @property
    def pure_source(self) -> int | None:
        """Which samples these are, unless they are augmented."""
        return id(self._split) if self._augment is None else None

    def batch(self, indices: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the given samples."""
        x, y = self._split.batch(indices)
        return (x if self._augment is None else self._augment(x, generator)), y


@cache
def _task(name: str, root: str | None, **keys: Any) -> Task:
    return tasks.load(name, root, **keys)
