"""Groups of runs that differ only in their seed, labelled by what distinguishes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echelon.reports.run_folder import RunFolder, RunFolderError

# Keys that affect neither the result nor the virtual time.
_NOT_COMPARED = frozenset(
    {"seed", "run_dir", "resume", "progress", "report", "tracking", "checkpoint_every", "checkpoint_keep"}
)
_FOREMOST = ("strategy", "work", "task", "partitioner", "topology", "workers", "seed")
_TOTALS = ("workers", "rounds", "seed")
_ABSENT = object()

Flat = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds.

    Attributes
    ----------
    label : str
        What distinguishes it from the other groups.
    config : dict
        By dotted key, without the seed and keys that do not affect the result.
    runs : tuple of RunFolder
        At least one.
    """

    label: str
    config: Flat
    runs: tuple[RunFolder, ...]


def find_runs(paths: Sequence[str | Path]) -> list[RunFolder]:
    """Open run folders, and all run folders within sweep folders.

    Parameters
    ----------
    paths : sequence of str or Path
        Run folders, or folders that contain some at any depth.

    Raises
    ------
    RunFolderError
        If a path is neither, or a run cannot be read.
    """
    runs: dict[Path, RunFolder] = {}
    for path in map(Path, paths):
        inner = [] if (path / "metrics.jsonl").exists() else [file.parent for file in path.rglob("metrics.jsonl")]
        for folder in sorted(inner, key=_by_number) or [path]:
            runs.setdefault(folder.resolve(), RunFolder.open(folder))
    return list(runs.values())


def group(runs: Sequence[RunFolder]) -> list[Group]:
    """Group runs whose configurations differ only in the seed, ordered by their first runs."""
    members: dict[str, list[RunFolder]] = {}
    configs: dict[str, Flat] = {}
    for run in runs:
        config = {key: value for key, value in flatten(run.config).items() if key not in _NOT_COMPARED}
        identity = repr(sorted(config.items()))
        members.setdefault(identity, []).append(run)
        configs[identity] = config
    labels = _labels(list(configs.values()))
    return [
        Group(label, configs[identity], tuple(group_runs))
        for label, (identity, group_runs) in zip(labels, members.items(), strict=True)
    ]


def differences(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return the keys in which groups differ, with the value in each group; a dash if a group lacks it."""
    return [
        (key, [str(group.config.get(key, "–")) for group in groups])
        for key in _keys([group.config for group in groups])
        if len({repr(group.config.get(key, _ABSENT)) for group in groups}) > 1
    ]


def common(groups: Sequence[Group]) -> Flat:
    """Return the keys, with their values, that all groups have in common."""
    first = groups[0].config
    return {
        key: first[key]
        for key in _keys([first])
        if all(repr(group.config.get(key, _ABSENT)) == repr(first[key]) for group in groups)
    }


def find(groups: Sequence[Group], name: str) -> Group:
    """Return the group with this label, or the group that contains the run at this path.

    Raises
    ------
    RunFolderError
        If no group matches.
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


def choices(config: Flat) -> Flat:
    """Return what a flat configuration chooses from each group (``strategy.name``), and its workers, rounds and seed.

    A configuration without groups is returned whole.
    """
    named = {key.removesuffix(".name"): value for key, value in config.items() if key.endswith(".name")}
    return named | {key: config[key] for key in _TOTALS if key in config} if named else config


def describe(config: Flat) -> str:
    """Return in one line of text what matters most of a flat configuration."""
    named = choices(config)
    shown = [key for key in _FOREMOST if key in named] or list(named)[: len(_FOREMOST)]
    return ", ".join(f"{key} {named[key]}" for key in shown)


def _labels(configs: Sequence[Flat]) -> list[str]:
    """Return labels that differ between any two configurations.

    Choices of a config group (``strategy.name``) are shown by their bare names. Keys within a group are compared only
    between configurations with the same choice.
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
    """Return all keys, choices of config groups first."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return sorted(keys, key=lambda key: not key.endswith(".name"))


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sort the folders 0, 1, ..., 10 of a sweep numerically."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]
