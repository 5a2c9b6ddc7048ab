"""Checks that need more than the configuration: files and optional packages."""

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
        Naming the first key whose file, folder or package is missing.
    """
    _check_paths(config)
    _check_home(config.task.root)
    if config.tracking != "none" and find_spec(config.tracking) is None:
        raise ConfigError(f"tracking={config.tracking} needs a package: pip install 'flwr-echelon[{config.tracking}]'")


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
        try:
            exists, is_folder = Path(path).exists(), Path(path).is_dir()
        except OSError as error:  # such as a name that is too long
            raise ConfigError(f"{name}: {error.strerror}: {path}") from error
        if not exists:
            raise ConfigError(f"{name}: no such file or directory: {path}")
        if is_folder != (name in folders):
            raise ConfigError(f"{name} must be a {'folder' if name in folders else 'file'}; got {path}")


def _check_home(root: str | None) -> None:
    try:
        Path(root or "").expanduser()
    except RuntimeError as error:
        raise ConfigError(f"task.root: no such home directory: {root}") from error
