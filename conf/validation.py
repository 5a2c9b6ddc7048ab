"""Checks of ranges, choices and combinations of keys, beyond their types."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from conf.errors import ConfigError
from conf.fields import Key
from conf.schema import Config


def validate(config: Config) -> None:
    """Check ranges and combinations of a configuration.

    Raises
    ------
    ConfigError
        With one line that names the first invalid key, its value and the allowed values.
    """
    for name, declared, value in _leaves(config):
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{name} must not contain a NUL character; got {value!r}")
        _check_value(name, declared, value)
    if config.resume is not None and config.run_dir not in (None, config.resume):
        raise ConfigError(
            f"run_dir must not be set with resume={config.resume}, the folder of the resumed run; got {config.run_dir}"
        )


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Key, Any]]:
    for declared in fields(node):
        value = getattr(node, declared.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{declared.name}.")
        else:
            yield prefix + declared.name, declared.metadata["key"], value


def _check_value(name: str, declared: Key, value: Any) -> None:
    if value is None:
        if declared.choices and not declared.or_null:  # a list or a string is Any to OmegaConf, which accepts null
            raise ConfigError(f"{name} must be one of {_words(declared)}; got null")
        return
    numbers = value if isinstance(value, list) else [value]
    if value in declared.choices or (declared.or_bool and isinstance(value, bool)):
        return
    if declared.choices and not isinstance(value, (int, float) if declared.or_number else list):
        raise ConfigError(f"{name} must be one of {_words(declared)}; got {value}")
    if declared.within is not None:
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ConfigError(f"{name} must hold numbers; got {number}")
            if not math.isfinite(number):
                raise ConfigError(f"{name} must be finite; got {number}")
            if number not in declared.within:
                verb = "be" if math.isinf(declared.within.high) else "lie"
                raise ConfigError(f"{name} must {verb} {declared.within}; got {number}")


def _words(declared: Key) -> str:
    words = declared.words
    if declared.or_number:
        words += f" or a number {declared.within}"
    elif declared.within:
        words += " or a list of numbers"
    return words + (" or null" if declared.or_null else "")
