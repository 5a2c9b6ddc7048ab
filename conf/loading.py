"""From overrides to a checked, typed configuration, and to YAML and back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from conf import groups
from conf.errors import ConfigError
from conf.overrides import ROOT, check, choices_of, value_of, wrong_type
from conf.schema import CHOICES, Config, entries
from conf.validation import validate

# Where a run is kept, watched and restarted does not make it another run.
_NOT_HASHED = ("run_dir", "resume", "checkpoint_every", "checkpoint_keep", "progress", "tracking", "deployment")

# The saved state stands for these: the samples, who holds which of them, the draws, and the shape of a row.
_KEPT = ("seed", "workers", "task", "model", "partitioner")
_NOT_KEPT = ("task.root", "task.download")  # data may be moved


def _store_schema() -> None:
    store = ConfigStore.instance()
    store.store("config", Config, group="schema")
    for group, choices in CHOICES.items():
        for choice, cls in choices.items():
            store.store(choice, cls, group=f"schema/{group}")


_store_schema()


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose and check the configuration of one run.

    Parameters
    ----------
    overrides : sequence of str
        In Hydra's grammar: ``strategy=matcha``, ``strategy.communication_budget=0.3``.

    Returns
    -------
    Config
        Not to be changed: use :func:`dataclasses.replace`.

    Raises
    ------
    ConfigError
        One line that names the key, its value and what is allowed.
    """
    choices = choices_of(overrides)
    check(overrides, choices)
    try:
        with hydra.initialize_config_dir(str(ROOT), version_base="1.3"):
            node = hydra.compose("config", list(overrides))
    except ConfigCompositionException as error:
        merged = str(error).removeprefix("Error merging override ")
        raise ConfigError(wrong_type(merged, choices) if merged != str(error) else _line(error)) from error
    return _checked(node, choices)


def recompose(text: str, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration that :func:`to_yaml` wrote, under overrides of its keys: how a run is resumed.

    Parameters
    ----------
    text : str
        The YAML of the earlier run.
    overrides : sequence of str
        As for :func:`compose`; the groups' choices must stay, and so must what the saved state depends on.

    Raises
    ------
    ConfigError
        As for :func:`compose`, or if the text is no configuration.
    """
    config = from_yaml(text)
    made = {group: getattr(config, group).name for group in CHOICES}
    for group, choice in choices_of(overrides, made).items():
        if choice != made[group]:
            raise ConfigError(f"{group} must stay {made[group]} in a resumed run; got {choice}")
    check(overrides, made)
    node = OmegaConf.structured(config)
    for override in overrides:
        name, value = value_of(override)
        if name not in CHOICES:
            try:
                OmegaConf.update(node, name, value)
            except OmegaConfBaseException as error:
                raise ConfigError(wrong_type(override, made)) from error
    changed = _checked(node, made)
    _check_kept(config, changed)
    return changed


def saved_yaml(folder: str) -> str:
    """Return the YAML of the run in a folder.

    Raises
    ------
    ConfigError
        If there is none.
    """
    path = Path(folder) / "config.yaml"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"resume must be the folder of an earlier run; found no {path}") from error


def to_yaml(config: Config) -> str:
    """Return a configuration as YAML, for the run folder."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(text: str) -> Config:
    """Read back what :func:`to_yaml` wrote.

    Raises
    ------
    ConfigError
        If it is no configuration, or one that cannot be run.
    """
    try:
        values: Any = OmegaConf.create(text)
        node = OmegaConf.structured(Config)
        made = {group: values[group].name for group in CHOICES}
        for group, choice in made.items():
            node[group] = OmegaConf.structured(CHOICES[group][choice])
        merged = OmegaConf.merge(node, values)
    # OmegaConf asserts that YAML is a mapping or a list.
    except (OmegaConfBaseException, YAMLError, KeyError, AttributeError, TypeError, AssertionError) as error:
        raise ConfigError(f"this is no configuration of a run: {_line(error)}") from error
    return _checked(merged, made)


def config_hash(config: Config) -> str:
    """Return a hash of what decides a run's result: 16 hexadecimal digits, the same on every machine."""
    values = {name: value for name, value in asdict(config).items() if name not in _NOT_HASHED}
    del values["task"]["root"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _check_kept(saved: Config, config: Config) -> None:
    before, now = _kept(saved), _kept(config)
    signals = [c.strategy.signal for c in (saved, config) if isinstance(c.strategy, groups.ALDSGD)]
    if "held_out" in signals:  # the held-out batch is in nobody's shard
        before["strategy.signal"], now["strategy.signal"] = signals
    for name in before:
        if now[name] != before[name]:
            shown, wanted = ("null" if value is None else value for value in (before[name], now[name]))
            raise ConfigError(f"{name} must stay {shown} in a resumed run; got {wanted}")


def _kept(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in asdict(config).items():
        if name in _KEPT:
            entries_of = value.items() if isinstance(value, dict) else ()
            values |= {f"{name}.{key}": entry for key, entry in entries_of} or {name: value}
    return {name: value for name, value in values.items() if name not in _NOT_KEPT}


def _checked(node: Any, choices: Mapping[str, str]) -> Config:
    try:
        config = OmegaConf.to_object(node)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{error.full_key} must be given: {entries(choices)[str(error.full_key)].key.text}"
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(_line(error)) from error
    assert isinstance(config, Config)
    validate(config)
    return config


def _line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    key = getattr(error, "full_key", None)
    return f"{key}: {lines[0]}" if key else lines[0]
