"""The reference of all keys: ``python -m conf.reference > docs/configuration.md``."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from conf.overrides import ROOT, choices_of, expected
from conf.schema import CHOICES, Config, Entry, entries

_HEAD = """# Configuration

Every run is described by choices of groups (`strategy=matcha`) and by keys (`strategy.communication_budget=0.3`,
`rounds=50`), all of them with a default. They are given as overrides, in any order:

```
make run ARGS="strategy=matcha strategy.communication_budget=0.3 rounds=50"
python run_sim.py strategy=matcha rounds=50                     # the same within the environment
python run_sim.py --multirun strategy=d_psgd,matcha seed=0,1,2  # one run after the other, for every combination
python run_sim.py strategy=matcha --cfg job                     # print the configuration, run nothing
python run_sim.py strategy=matcha --help                        # explain the keys that these choices have
flwr run . local --stream --run-config 'overrides="strategy=matcha rounds=50"' \\
  --federation-config "num-supernodes=8 client-resources-num-cpus=1"
```

Values follow [Hydra's grammar](https://hydra.cc/docs/advanced/override_grammar/basic/): lists are written `[1,2]`, no
value is `null`, and `${rounds}` stands for another key's value. A key that there is not, a value of the wrong type or
out of range, and choices that do not go together end in one line that names the key, the value and what is allowed,
with exit status 2, before anything starts. With `--multirun` all combinations are checked before the first one starts.

`resume=<run folder>` takes the configuration from that folder; overrides change its keys (`rounds=200`), not its
groups, nor what the saved state depends on: `seed`, `workers`, and the keys of `task` (`task.root` and `task.download`
apart), `model` and `partitioner`. The folder's `config.yaml` is rewritten.

This page is written by `python -m conf.reference > docs/configuration.md`; a test keeps it true.
"""


def markdown() -> str:
    """Return the page on all groups and keys."""
    made = choices_of([])
    common = {name: entry for name, entry in entries(made).items() if name.split(".")[0] not in CHOICES}
    parts = [_HEAD, "## Top-level keys\n"]
    parts.append(_table(_row(name, entry, _code(_default(name, made))) for name, entry in common.items()))
    for group, choices in CHOICES.items():
        parts.append(f"## `{group}`: {_purpose(group)}\n\nDefault: `{group}={made[group]}`.\n")
        parts.append("| choice | what |\n|---|---|\n" + "".join(f"| `{c}` | {_comment(group, c)} |\n" for c in choices))
        if rows := _group_rows(group):
            parts.append(_table(rows))
    return "\n".join(parts)


def explain(overrides: Sequence[str] = ()) -> str:
    """Return the groups with the choices that ``overrides`` make, and the keys that these choices have, for ``--help``.

    Raises
    ------
    ConfigError
        If the overrides make a choice that there is not.
    """
    made = choices_of(overrides)
    lines = ["Groups, chosen by group=choice (in brackets: the choice made):"]
    for group, choices in CHOICES.items():
        words = " ".join(f"[{choice}]" if choice == made[group] else choice for choice in choices)
        lines += textwrap.wrap(f"{group}: {_purpose(group)}", 96, initial_indent="  ", subsequent_indent="    ")
        lines += textwrap.wrap(words, 96, initial_indent="      ", subsequent_indent="      ")
    lines.append("\nKeys of these choices, set by key=value:")
    for name, entry in entries(made).items():
        unit = f" {entry.key.unit}" if entry.key.unit else ""
        lines.append(f"  {name}={_default(name, made)}{unit}")
        text = f"{entry.key.text} ({_allowed(entry)})"
        lines += textwrap.wrap(text, 96, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _purpose(group: str) -> str:
    purpose: str = next(declared.metadata["key"].text for declared in fields(Config) if declared.name == group)
    return purpose


def _comment(group: str, choice: str) -> str:
    """Return what a group's YAML file says in its first line."""
    return (ROOT / group / f"{choice}.yaml").read_text().splitlines()[0].removeprefix("# ")


def _group_rows(group: str) -> list[str]:
    """Return one row per key of a group; a default that differs between choices is given for each of them."""
    found: dict[str, tuple[Entry, dict[str, str]]] = {}
    for choice in CHOICES[group]:
        made = {**choices_of([]), group: choice}
        for name, entry in entries(made).items():
            if name.startswith(f"{group}."):
                found.setdefault(name, (entry, {}))[1][choice] = _code(_default(name, made))
    rows = []
    for name, (entry, defaults) in found.items():
        one = set(defaults.values()) if len(defaults) == len(CHOICES[group]) else set()
        each = "; ".join(f"{' '.join(same)}: {value}" for value, same in _by_value(defaults).items())
        rows.append(_row(name, entry, one.pop() if len(one) == 1 else each))
    return rows


def _by_value(defaults: Mapping[str, str]) -> dict[str, list[str]]:
    choices: dict[str, list[str]] = {}
    for choice, value in defaults.items():
        choices.setdefault(value, []).append(choice)
    return choices


def _row(name: str, entry: Entry, default: str) -> str:
    return f"| `{name}` | {default} | {entry.key.unit} | {_allowed(entry)} | {entry.key.text} |\n"


def _table(rows: Iterable[str]) -> str:
    return "| key | default | unit | allowed | meaning |\n|---|---|---|---|---|\n" + "".join(rows)


def _code(value: str) -> str:
    return "must be given" if value == "???" else f"`{value}`"


def _allowed(entry: Entry) -> str:
    key = entry.key
    if key.choices:
        return ", ".join(key.choices) + (f" or a list of numbers {key.within}" if key.within else "")
    words, null, _ = expected(entry.hint).partition(" or null")
    return f"{words} {key.within}{null}" if key.within else words + null


def _default(name: str, choices: Mapping[str, str]) -> str:
    """Return the value of a key in the YAML files, as an override writes it."""
    group, _, key = name.partition(".")
    path = ROOT / group / f"{choices[group]}.yaml" if group in CHOICES else ROOT / "config.yaml"
    value = OmegaConf.to_container(_file(path))
    for part in (key if group in CHOICES else name).split("."):
        assert isinstance(value, dict)
        value = value[part]
    return value if isinstance(value, str) else json.dumps(value)


@cache
def _file(path: Path) -> DictConfig | ListConfig:
    return OmegaConf.load(path)


if __name__ == "__main__":
    print(markdown(), end="")
