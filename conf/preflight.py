"""Checks that need more than the configuration: files, graphs and optional packages."""

from importlib.util import find_spec
from pathlib import Path

from conf import groups
from conf.errors import ConfigError
from conf.schema import Config


def preflight(config: Config) -> None:
    """Check, on the machine that starts the run, that files, folders and packages in the configuration exist.

    Raises
    ------
    ConfigError
        Naming the first key whose file, folder or package is missing or whose graph is not connected.
    """
    _check_paths(config)
    _check_home(config.task.root)
    if config.tracking != "none" and find_spec(config.tracking) is None:
        raise ConfigError(f"tracking={config.tracking} needs a package: pip install 'flwr-echelon[{config.tracking}]'")
    if isinstance(config.strategy, groups.Decentralised):
        _check_graph(config)


def _check_paths(config: Config) -> None:
    folders = {"resume": config.resume}
    files: dict[str, str] = {}
    if isinstance(config.partitioner, groups.File):
        files["partitioner.path"] = config.partitioner.path
    if isinstance(config.partitioner, groups.Submodular):
        folders["partitioner.model_path"] = config.partitioner.model_path
    if isinstance(config.fleet, groups.Trace):
        files["fleet.path"] = config.fleet.path
    for name, path in {**folders, **files}.items():
        if path is None:
            continue
        if not Path(path).exists():
            raise ConfigError(f"{name}: no such file or directory: {path}")
        if Path(path).is_dir() != (name in folders):
            raise ConfigError(f"{name} must be a {'folder' if name in folders else 'file'}; got {path}")


def _check_home(root: str | None) -> None:
    try:
        Path(root or "").expanduser()
    except RuntimeError as error:
        raise ConfigError(f"task.root: no such home directory: {root}") from error


def _check_graph(config: Config) -> None:
    # Importing networkx takes half a second, which most importers of conf do not need.
    from echelon.algorithms.connectivity import require_connected
    from echelon.algorithms.topology import schedule

    options = dict(vars(config.topology))
    name, kind, rotate = (options.pop(key) for key in ("name", "schedule", "rotate"))
    try:
        graphs = schedule(name, config.workers, kind=kind, rotate=rotate, seed=config.seed, **options)
        if groups.is_matcha(config.strategy):
            for index in range(graphs.period or 0):
                require_connected(graphs.graph(index), "MATCHA's graph of every round", "add edges between them")
    except ValueError as error:
        subject = "" if str(error).startswith("topology") else f"topology={name}: "
        raise ConfigError(f"{subject}{error}") from error
