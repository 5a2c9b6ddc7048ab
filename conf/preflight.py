"""Checks that look beyond the configuration: files, graphs and optional packages."""

from importlib.util import find_spec
from pathlib import Path

from conf import groups
from conf.errors import ConfigError
from conf.schema import Config


def preflight(config: Config) -> None:
    """Check, on the machine that starts the run, that what the configuration names is there.

    Raises
    ------
    ConfigError
        Naming the first key whose file, folder or package is missing, or a graph that is not connected.
    """
    _check_paths(config)
    if config.tracking != "none" and find_spec(config.tracking) is None:
        raise ConfigError(f"tracking={config.tracking} needs a package: pip install 'flwr-echelon[{config.tracking}]'")
    if isinstance(config.strategy, groups.Decentralised):
        _check_graph(config)


def _check_paths(config: Config) -> None:
    paths = {"resume": config.resume}
    if isinstance(config.partitioner, groups.File):
        paths["partitioner.path"] = config.partitioner.path
    if isinstance(config.partitioner, groups.Submodular):
        paths["partitioner.model_path"] = config.partitioner.model_path
    if isinstance(config.fleet, groups.Trace):
        paths["fleet.path"] = config.fleet.path
    for name, path in paths.items():
        if path is not None and not Path(path).exists():
            raise ConfigError(f"{name} must be there; found no {path}")


def _check_graph(config: Config) -> None:
    from algorithms.topology import schedule  # networkx takes half a second that most importers of conf need not spend

    options = dict(vars(config.topology))
    name, kind, rotate = (options.pop(key) for key in ("name", "schedule", "rotate"))
    try:
        schedule(name, config.workers, kind=kind, rotate=rotate, seed=config.seed, **options)
    except ValueError as error:
        subject = "" if str(error).startswith("topology") else f"topology={name}: "
        raise ConfigError(f"{subject}{error}") from error
