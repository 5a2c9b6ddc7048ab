"""Presets: ``preset=<name>`` stands for the overrides in ``conf/preset/<name>.yaml``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from conf.errors import ConfigError
from conf.overrides import named
from conf.schema import CHOICES, ROOT

_KEY = "preset"
NAMES = tuple(sorted(path.stem for path in (ROOT / _KEY).glob("*.yaml")))


def with_preset(overrides: Sequence[str]) -> list[str]:
    """Return overrides in which a preset is replaced by its own, which all others override.

    A preset's keys of a group are left out where another choice of that group is made.

    Raises
    ------
    ConfigError
        For a malformed override, an unknown preset, or more than one.
    """
    keys = [named(text) for text in overrides]
    chosen = [value for name, value in keys if name == _KEY]
    rest = [text for text, (name, _) in zip(overrides, keys, strict=True) if name != _KEY]
    if not chosen:
        return rest
    if len(chosen) > 1 or chosen[0] not in NAMES:
        raise ConfigError(f"preset must be one of {', '.join(NAMES)}; got {', '.join(chosen) or 'nothing'}")
    preset, given = read(chosen[0]), dict(keys)
    other = {group for group in CHOICES if given.get(group, preset.get(group)) != preset.get(group)}
    kept = {name: value for name, value in preset.items() if name not in given and name.split(".")[0] not in other}
    return [*(f"{name}={_written(value)}" for name, value in kept.items()), *rest]


def refuse_preset(overrides: Sequence[str]) -> None:
    """Raise a ConfigError if a preset is among the overrides of a resumed run."""
    for name, value in map(named, overrides):
        if name == _KEY:
            raise ConfigError(f"preset must not be given in a resumed run, which has its configuration; got {value}")


def read(name: str) -> Mapping[str, Any]:
    """Return a preset's keys and values."""
    values = OmegaConf.to_container(OmegaConf.load(ROOT / _KEY / f"{name}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def comment(name: str) -> str:
    """Return what a preset is, the first line of its file."""
    return (ROOT / _KEY / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
