"""Compose overrides into a validated, typed configuration, and convert it to and from YAML."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from conf import groups
from conf.errors import ConfigError
from conf.overrides import as_written, check, choices_of, value_of, wrong_type
from conf.presets import refuse_preset, with_preset
from conf.schema import CHOICES, ROOT, Config, entries
from conf.validation import validate
from echelon.core import plain_yaml

# Storage, progress, process management and what is reported do not change the result of a run.
_NOT_HASHED = (
    *("run_dir", "resume", "checkpoint_every", "checkpoint_keep", "progress", "tracking", "deployment", "nodes"),
    *("evaluate_workers", "report", "work.timeout", "work.max_empty_rounds", "work.adapt_grace", "engine.timeout"),
)

# The saved state depends on these: samples, partition, random streams and the shape of a row.
_FIXED = ("seed", "workers", "task", "model", "partitioner", "optimizer")
_NOT_FIXED = ("task.root", "task.download", "optimizer.max_grad_norm", "model.init")  # data may be moved


def _store_schema() -> None:
    store = ConfigStore.instance()
    for cls in {Config, *(cls for choices in CHOICES.values() for cls in choices.values())}:
        store.store(cls.__name__, cls, group="schema")


_store_schema()


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose and validate the configuration of one run.

    Parameters
    ----------
    overrides : sequence of str
        In Hydra's grammar, such as ``strategy=matcha`` or ``strategy.communication_budget=0.3``. ``preset=NAME`` stands
        for those of a preset, which all others override.

    Returns
    -------
    Config
        Use :func:`dataclasses.replace` to derive another one.

    Raises
    ------
    ConfigError
        With one line that names the key, its value and the allowed values.
    """
    overrides = with_preset(overrides)
    choices = choices_of(overrides)
    check(overrides, choices)
    try:
        node = _composed(as_written(overrides, choices))
    except ConfigCompositionException as error:
        merged = str(error).removeprefix("Error merging override ")
        raise ConfigError(wrong_type(merged, choices) if merged != str(error) else _first_line(error)) from error
    return _validated(node, choices)


def _composed(overrides: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(ROOT), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def recompose(config: Config, overrides: Sequence[str] = ()) -> Config:
    """Return a saved configuration with overrides applied, to resume a run.

    Parameters
    ----------
    config : Config
        The configuration of the earlier run, as :func:`saved` returns it.
    overrides : sequence of str
        As for :func:`compose`. Group choices and the keys that the saved state depends on cannot be changed.

    Raises
    ------
    ConfigError
        As for :func:`compose`, or if a key must not change.
    """
    refuse_preset(overrides)
    saved = {group: getattr(config, group).name for group in CHOICES}
    for group, choice in choices_of(overrides, saved).items():
        if choice != saved[group]:
            raise ConfigError(f"{group} must stay {saved[group]} in a resumed run; got {choice}")
    check(overrides, saved)
    node = OmegaConf.structured(config)
    for override in as_written(overrides, saved):
        name, value = value_of(override)
        if name not in CHOICES:
            try:
                OmegaConf.update(node, name, value)
            except OmegaConfBaseException as error:
                raise ConfigError(wrong_type(override, saved)) from error
    changed = _validated(node, saved)
    _check_fixed(config, changed)
    return changed


def saved(folder: str) -> Config:
    """Return the configuration saved in a run folder.

    Raises
    ------
    ConfigError
        With one line that names the file, if the folder has no readable and valid ``config.yaml``.
    """
    path = Path(folder) / "config.yaml"
    try:
        return from_yaml(plain_yaml.read(path))
    except FileNotFoundError as error:
        raise ConfigError(f"resume: no such file or directory: {path}") from error
    except YAMLError as error:
        raise ConfigError(f"resume: {path} is not a valid run configuration: {_first_line(error)}") from error
    except (OSError, ValueError) as error:  # ConfigError is a ValueError, and so is a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"resume: {path}: {reason}") from error


def to_yaml(config: Config) -> str:
    """Return a configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(text: str) -> Config:
    """Parse the output of :func:`to_yaml`; a key that an earlier version did not have gets its default.

    Raises
    ------
    ConfigError
        If the text is not a valid configuration.
    """
    try:
        plain_yaml.check(text)
        values: Any = OmegaConf.create(text)
        choices = {group: values[group].name for group in CHOICES}
        for group, choice in choices.items():
            if choice not in CHOICES[group]:
                raise KeyError(f"{group}={choice}")
        merged = OmegaConf.merge(_composed([f"{group}={choice}" for group, choice in choices.items()]), values)
    # OmegaConf raises AssertionError for YAML that is neither a mapping nor a list.
    except (
        OmegaConfBaseException,
        YAMLError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
        AssertionError,
    ) as error:
        raise ConfigError(f"config.yaml is not a valid run configuration: {_first_line(error)}") from error
    return _validated(merged, choices)


def config_hash(config: Config) -> str:
    """Return a platform-independent hash (16 hexadecimal digits) of the keys that affect the result."""
    ignored = (*_NOT_HASHED, "task.root")
    values = {name: value for name, value in _leaves(asdict(config)) if not _is_among(name, ignored)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def first_difference(config: Config, other: Config) -> str | None:
    """Return the first key that affects the result and differs, but for ``rounds``; None if there is none."""
    ignored = (*_NOT_HASHED, "rounds", "task.root")
    before, now = (dict(_leaves(asdict(each))) for each in (config, other))
    names = (name for name in before | now if not _is_among(name, ignored))
    return next((name for name in names if before.get(name) != now.get(name)), None)


def _is_among(name: str, keys: Sequence[str]) -> bool:
    """Return whether a dotted name is one of the keys, or within one."""
    return any(name == key or name.startswith(f"{key}.") for key in keys)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_fixed(saved: Config, config: Config) -> None:
    before, now = _fixed(saved), _fixed(config)
    both = [c.strategy for c in (saved, config) if isinstance(c.strategy, groups.ALDSGD)]
    if any(strategy.robust or strategy.signal == "held_out" for strategy in both):
        for name in ("signal", "robust"):  # the held-out batch belongs to no shard
            before[f"strategy.{name}"], now[f"strategy.{name}"] = (getattr(strategy, name) for strategy in both)
    for name in before:
        if now[name] != before[name]:
            before_text, now_text = ("null" if value is None else value for value in (before[name], now[name]))
            raise ConfigError(f"{name} must stay {before_text} in a resumed run; got {now_text}")


def _fixed(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in asdict(config).items():
        if name in _FIXED:
            entries_of = value.items() if isinstance(value, dict) else ()
            values |= {f"{name}.{key}": entry for key, entry in entries_of} or {name: value}
    return {name: value for name, value in values.items() if name not in _NOT_FIXED}


def _validated(node: Any, choices: Mapping[str, str]) -> Config:
    try:
        config = OmegaConf.to_object(node)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is required: {entries(choices)[str(error.full_key)].key.text}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    assert isinstance(config, Config)
    validate(config)
    return config


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    key = getattr(error, "full_key", None)
    return f"{key}: {lines[0]}" if key else lines[0]
