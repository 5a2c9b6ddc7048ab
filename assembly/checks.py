"""Checks that need data and devices: what can be known before anything starts ends here in one line."""

import torch

import tasks
from assembly.fleet import make_fleet
from assembly.task import load_task
from conf import Config, ConfigError


def check(config: Config) -> None:
    """Load the data and compare it with the rest of the configuration.

    Raises
    ------
    ConfigError
        If data is missing or does not fit, or there is no such device.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda needs a CUDA device and none is visible; use device=cpu or device=auto")
    try:
        make_fleet(config)
        if config.partitioner.name == "local":
            return
        task = load_task(config, config.task.root)
        model = tasks.MODELS[config.model.name]
        if not model.fits(task.input_shape):
            tasks.build_model(config.model.name, task)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
    if len(task.train) < config.workers:
        raise ConfigError(
            f"workers must be at most the {len(task.train)} training samples of task={config.task.name}; "
            f"got {config.workers}"
        )
