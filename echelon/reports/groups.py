"""Runs that differ only by their seed form a group, named after what sets it apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echelon.reports.run_folder import RunFolder, RunFolderError

# Keys that do not change what is learnt or how long it takes on the virtual clock.
_NOT_COMPARED = frozenset({"seed", "run_dir", "resume", "progress", "tracking", "checkpoint_every", "checkpoint_keep"})
_ABSENT = object()

Flat = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds.

    Attributes
    ----------
    label : str
        What sets it apart from the other groups of the comparison.
    config : dict
        By dotted key, without the seed and what has no influence on the result.
    runs : tuple of RunFolder
        At least one.
    """

    label: str
    config: Flat
    runs: tuple[RunFolder, ...]


def find_runs(paths: Sequence[str | Path]) -> list[RunFolder]:
    """Open run folders, and all those inside of sweep folders.

    Parameters
    ----------
    paths : sequence of str or Path
        Run folders, or folders that hold some at any depth.

    Raises
    ------
    RunFolderError
        If a path is neither, or a run in it cannot be read.
    """
    found: dict[Path, RunFolder] = {}
    for path in map(Path, paths):
        inner = [] if (path / "metrics.jsonl").exists() else [file.parent for file in path.rglob("metrics.jsonl")]
        for folder in sorted(inner, key=_by_number) or [path]:
            found.setdefault(folder.resolve(), RunFolder.open(folder))
    return list(found.values())


def group(runs: Sequence[RunFolder]) -> list[Group]:
    """Group runs whose configurations differ only by seed, in the order of their first runs."""
    members: dict[str, list[RunFolder]] = {}
    configs: dict[str, Flat] = {}
    for run in runs:
        config = {key: value for key, value in flatten(run.config).items() if key not in _NOT_COMPARED}
        identity = repr(sorted(config.items()))
        members.setdefault(identity, []).append(run)
        configs[identity] = config
    labels = _labels(list(configs.values()))
    return [
        Group(label, configs[identity], tuple(held))
        for label, (identity, held) in zip(labels, members.items(), strict=True)
    ]


def differences(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return the keys in which groups differ, each with its value in every group; a dash where a group lacks it."""
    return [
        (key, [str(group.config.get(key, "–")) for group in groups])
        for key in _keys([group.config for group in groups])
        if len({repr(group.config.get(key, _ABSENT)) for group in groups}) > 1
    ]


def find(groups: Sequence[Group], name: str) -> Group:
    """Return the group with this label, or the one that holds the run at this path.

    Raises
    ------
    RunFolderError
        If there is none.
    """
    for candidate in groups:
        if candidate.label == name or any(run.path.resolve() == Path(name).resolve() for run in candidate.runs):
            return candidate
    known = ", ".join(f"'{candidate.label}'" for candidate in groups)
    raise RunFolderError(f"baseline must be one of the runs or of {known}; got '{name}'")


def flatten(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """Return a nested configuration by dotted key."""
    flat: Flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _labels(configs: Sequence[Flat]) -> list[str]:
    """Return labels that differ between any two configurations.

    The choices of a config group (``strategy.name``) go by their bare names. A key below one tells nothing about
    another choice, so it counts only where two configurations made the same choice.
    """
    parts: list[list[str]] = [[] for _ in configs]
    for key in _keys(configs):
        section, _, name = key.rpartition(".")
        choices = [repr(config.get(f"{section}.name")) if name != "name" else "" for config in configs]
        pairs = {(choice, repr(config.get(key, _ABSENT))) for choice, config in zip(choices, configs, strict=True)}
        if len(pairs) > len(set(choices)):
            for part, config in zip(parts, configs, strict=True):
                if key in config:
                    part.append(str(config[key]) if name == "name" else f"{name}={config[key]}")
    return [", ".join(part) or "all runs" for part in parts]


def _keys(configs: Sequence[Flat]) -> list[str]:
    """Return every key that occurs, choices of config groups first."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return sorted(keys, key=lambda key: not key.endswith(".name"))


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sort a sweep's folders 0, 1, ..., 10 as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]
