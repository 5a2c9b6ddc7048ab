"""Overrides such as ``strategy.c1=0.5``: parsing, validation against the schema, and expansion of sweeps."""

import difflib
import itertools
import re
import shlex
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf

from conf.errors import ConfigError
from conf.fields import is_union
from conf.schema import CHOICES, ROOT, Entry, entries

_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", Any: "a word or a list"}
_NEEDS_QUOTES = re.compile(r"[^\w/\\.:+%@?|*$ -]|[^\x00-\x7f]")  # all else may stand in a value by itself
_CONDITION = re.compile(r"stop_at=\w+[<>]=?[\w.+-]+$")
_TEXT = (str, str | None)
_PLURALS = {int: "integers", float: "numbers", list[int]: "lists of integers"}


def parse_overrides(text: str) -> list[str]:
    """Split a string of overrides, as in ``flwr run --run-config 'overrides="rounds=5 strategy=matcha"'``.

    Quotation marks group, as in a shell; a backslash is an ordinary character, as in paths of Windows.

    Raises
    ------
    ConfigError
        If a quotation mark is not closed.
    """
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace_split, words.commenters, words.escape = True, "", ""
    try:
        return list(words)
    except ValueError as error:
        raise ConfigError(f"overrides must be key=value pairs with closed quotation marks; got {text}") from error


def of_run_config(run_config: Mapping[str, bool | int | float | str]) -> list[str]:
    """Return the overrides in a Flower run-config: its plain keys, such as ``rounds=5``, and those in ``overrides``.

    An empty value stands for the default. A key in ``overrides`` comes before a plain one.

    Raises
    ------
    ConfigError
        As :func:`parse_overrides`.

    Examples
    --------
    >>> from conf.overrides import of_run_config
    >>> of_run_config({"overrides": "rounds=9 topology.rotate=3", "strategy": "d_psgd", "rounds": 5, "work": ""})
    ['strategy=d_psgd', 'rounds=9', 'topology.rotate=3']
    """
    given = parse_overrides(str(run_config.get("overrides", "")))
    named = {override.partition("=")[0] for override in given}
    plain = {name: value for name, value in run_config.items() if name not in {"overrides", *named} and value != ""}
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in plain.items()}
    return [*(f"{name}={text}" for name, text in texts.items()), *given]


@cache
def _default_choices() -> Mapping[str, str]:
    """Return the choice of each group in the default configuration."""
    lines = OmegaConf.to_container(OmegaConf.load(ROOT / "config.yaml").defaults)
    assert isinstance(lines, list)
    return {group: choice for line in lines if isinstance(line, dict) for group, choice in line.items()}


def choices_of(overrides: Sequence[str], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the choice of each group: that of an override, else of ``base`` (by default, the default configuration).

    Raises
    ------
    ConfigError
        For a malformed override or an unknown choice.
    """
    parsed = (_parse(text) for text in overrides)
    chosen = {override.key_or_group: _choice(override) for override in parsed if override.key_or_group in CHOICES}
    return {**(_default_choices() if base is None else base), **chosen}


def resumed(overrides: Sequence[str]) -> str | None:
    """Return the folder that ``resume=...`` names; None without it.

    Raises
    ------
    ConfigError
        For a malformed override or several values.
    """
    folder = None
    for override in map(_parse, overrides):
        if override.key_or_group == "resume":
            if override.is_sweep_override():
                raise ConfigError(_multiple_values(override))
            folder = override.value()
    return None if folder is None else str(folder)


def check(overrides: Sequence[str], choices: Mapping[str, str]) -> None:
    """Check that each override sets a known key of these group choices to a single value.

    Raises
    ------
    ConfigError
        Naming the first invalid override and the closest known key.
    """
    parsed = [_parse(text) for text in overrides]
    known = entries(choices)
    for override in parsed:
        if override.is_sweep_override():
            entry = known.get(override.key_or_group)
            raise ConfigError(_multiple_values(override, entry and entry.hint))
    for override in parsed:
        if override.key_or_group not in CHOICES:
            _check_key(override, choices)


def as_written(overrides: Sequence[str], choices: Mapping[str, str]) -> list[str]:
    """Return validated overrides in which a number is quoted if its key takes text: a folder 1.10 is not 1.1.

    So is a condition.
    """
    known = entries(choices)
    return [_quoted(text) if _CONDITION.match(text) or _is_text(known, text) else text for text in overrides]


def _is_text(known: Mapping[str, Entry], text: str) -> bool:
    name, value = value_of(text)
    return name in known and known[name].hint in _TEXT and isinstance(value, int | float)


def _quoted(text: str) -> str:
    name, _, value = text.partition("=")
    return f"{name}='{value.strip()}'"


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Expand a sweep such as ``strategy=d_psgd,matcha seed=0,1`` into the overrides of each run, last key fastest.

    Raises
    ------
    ConfigError
        For an override that is malformed or cannot be enumerated.
    """
    axes = []
    for override in map(_parse, overrides):
        if override.is_discrete_sweep() and override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
            axes.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
        elif override.is_sweep_override():
            raise ConfigError(f"{override.key_or_group} must be swept over listed values; got {override.input_line}")
        else:
            axes.append([str(override.input_line)])
    return [list(run) for run in itertools.product(*axes)]


def expected(hint: Any) -> str:
    """Describe the values of a type."""
    if is_union(hint):
        return " or ".join("null" if part is types.NoneType else expected(part) for part in get_args(hint))
    if get_origin(hint) is list:
        return f"a list of {_PLURALS[get_args(hint)[0]]}"
    return _WORDS[hint]


def wrong_type(override: str, choices: Mapping[str, str]) -> str:
    """Return the error message for a value of the wrong type."""
    name, _, value = override.partition("=")
    return f"{name} must be {expected(entries(choices)[name].hint)}; got {value or 'nothing'}"


def value_of(override: str) -> tuple[str, Any]:
    """Return the key and the value of a validated override."""
    parsed = _parse(override)
    return parsed.key_or_group, parsed.value()


def named(override: str) -> tuple[str, str]:
    """Return the key of an override, and its value as it is written."""
    parsed = _parse(override)
    return parsed.key_or_group, parsed.get_value_string()


def _parse(text: str) -> Override:
    try:
        written = _quoted(text) if _CONDITION.match(text) else text
        override = OverridesParser.create().parse_overrides([written])[0]
    except HydraException as error:
        raise ConfigError(f"{_form(text)}; got {text}") from error
    if override.type is not OverrideType.CHANGE or override.package is not None:
        raise ConfigError(f"an override must have the form key=value; keys cannot be added or removed; got {text}")
    return override


def _form(text: str) -> str:
    """Return what is wrong with the form of an override, with the first character that needs quotation marks."""
    name, equals, value = text.partition("=")
    if "\0" in value:
        return f"{name} must not contain a NUL character"
    special = _NEEDS_QUOTES.search(value)
    if not equals or special is None or value[:1] in "'\"[{":
        return "an override must have the form key=value, with spaces and commas quoted"
    return (
        f"the value of {name} must be in quotation marks because of {special.group()!r}, and these in others, since "
        f"""the shell removes one pair: "{name}='{value}'\""""
    )


def _choice(override: Override) -> str:
    group, value = override.key_or_group, override.get_value_string()
    if override.is_sweep_override():
        raise ConfigError(_multiple_values(override))
    if value not in CHOICES[group]:
        near = difflib.get_close_matches(value, CHOICES[group], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"{group} must be one of {', '.join(CHOICES[group])}; got {value or 'nothing'}{hint}")
    return value


def _multiple_values(override: Override, hint: Any = None) -> str:
    name, values = override.key_or_group, override.get_value_string()
    quoted = f", or quotation marks around its commas, \"{name}='{values}'\"" if hint in _TEXT else ""
    return f"{name} must have one value{quoted}; got {values} (write a list as [1,2]; use --multirun for a sweep)"


def _check_key(override: Override, choices: Mapping[str, str]) -> None:
    name, known = override.key_or_group, entries(choices)
    if any(key.startswith(f"{name}.") for key in known):
        raise ConfigError(f"{name} must be set key by key, as {name}.key=value; got {override.get_value_string()}")
    if name not in known:
        raise ConfigError(_unknown(name, choices))
    if known[name].hint is bool and not isinstance(override.value(), bool):  # OmegaConf converts any number to a bool
        raise ConfigError(wrong_type(str(override.input_line), choices))


def _unknown(name: str, choices: Mapping[str, str]) -> str:
    """Return the error message for an unknown key: the choices that have it, or the closest known key."""
    group = name.split(".")[0]
    if name == f"{group}.name" and group in CHOICES:
        return f"unknown key {name}; select a choice with {group}={'|'.join(CHOICES[group])}"
    if group in CHOICES:
        others = [choice for choice in CHOICES[group] if name in entries({**choices, group: choice})]
        if others:
            return f"unknown key {name} of {group}={choices[group]}; it belongs to {group}={'|'.join(others)}"
    known = [*entries(choices), *CHOICES]
    near = [key for key in known if key.split(".")[-1] == name] or difflib.get_close_matches(name, known, n=1)
    return f"unknown key {name}; " + (f"did you mean {near[0]}?" if near else "--help lists all keys")
