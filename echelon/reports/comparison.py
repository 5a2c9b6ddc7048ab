"""Comparison of groups of runs: one row per group, one column per quantity."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from echelon.reports import series, text
from echelon.reports.run_folder import Record, RunFolder, RunFolderError
from echelon.reports.run_groups import Group


@dataclass(frozen=True)
class Level:
    """A target: a training loss to fall to, or a consensus accuracy (0 to 1) to rise to."""

    quantity: str
    value: float

    def __str__(self) -> str:
        if self.quantity == "loss":
            return f"training loss ≤ {self.value:.4g}"
        return f"accuracy ≥ {100 * self.value:.4g} %"

    def time(self, run: RunFolder) -> float | None:
        """Return the virtual seconds until a run first reaches the level, or None if it never does."""
        falling = self.quantity == "loss"
        for record in run.metrics:
            value = record.get("train_loss" if falling else "consensus_accuracy")
            if value is not None and (value <= self.value if falling else value >= self.value):
                return float(record["virtual_seconds"])
        return None


@dataclass(frozen=True)
class Statistic:
    """One quantity over the runs of a group: one value per run, or None."""

    values: tuple[float | None, ...]

    @cached_property
    def mean(self) -> float | None:
        """The mean; None unless every run has a value, because a mean over successful runs only is biased."""
        return None if None in self.values or not self.values else float(np.mean(np.array(self.values, dtype=float)))

    @cached_property
    def deviation(self) -> float | None:
        """The sample standard deviation; None for fewer than two values."""
        if self.mean is None or len(self.values) < 2:
            return None
        return float(np.std(np.array(self.values, dtype=float), ddof=1))


@dataclass(frozen=True)
class Column:
    """A column of the table: heading with unit, scale factor to that unit, decimals, and text for a missing value.

    Without `decimals` the mean has four significant digits.
    """

    heading: str
    scale: float
    decimals: int | None = None
    missing: str = "–"

    def write(self, statistic: Statistic) -> str:
        """Return mean and standard deviation, or the number of runs with a value if some have none."""
        count = sum(value is not None for value in statistic.values)
        if statistic.mean is None:
            return f"{count} of {len(statistic.values)} runs" if count else self.missing
        mean = self.scale * statistic.mean
        decimals = self.decimals
        if decimals is None:
            decimals = max(0, 3 - math.floor(math.log10(abs(mean)))) if mean else 0
        text = f"{mean:.{decimals}f}"
        return f"{text} ± {self.scale * statistic.deviation:.{decimals}f}" if statistic.deviation else text


class Speed(Column):
    """A column of times of the baseline divided by those of the group, in words: ``3.20 × slower``, never 0.31."""

    def write(self, statistic: Statistic) -> str:
        """Return the factor by which a group is faster than the baseline, or slower."""
        if statistic.mean is None or statistic.mean == 1:
            return super().write(statistic) + (" ×" if statistic.mean else "")
        if statistic.mean > 1:
            return f"{super().write(statistic)} × faster"
        times = Statistic(tuple(1 / value for value in statistic.values if value))
        return f"{super().write(times)} × slower"


@dataclass(frozen=True)
class Comparison:
    """A table of statistics: ``cells[i][j]`` is column j of group i."""

    groups: tuple[Group, ...]
    baseline: Group
    levels: tuple[Level, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Statistic, ...], ...]


def compare(groups: Sequence[Group], baseline: Group, levels: Sequence[Level] = ()) -> Comparison:
    """Compare groups of runs.

    Parameters
    ----------
    groups : sequence of Group
        Every run with at least one finished round.
    baseline : Group
        The speed of a group is the time of the baseline divided by that of the group: per seed if both have the same
        seeds, otherwise the ratio of the means.
    levels : sequence of Level
        Targets for times and speeds. Default: the lowest training loss that all runs reach.
    """
    levels = tuple(levels) or (common_loss(groups),)
    columns: list[Column] = []
    cells: list[list[Statistic]] = [[] for _ in groups]
    for level in levels:
        columns += [Column(f"Time to {level} (s)", 1, missing="not reached"), Speed(f"Speed to {level}", 1, 2)]
        for row, group in zip(cells, groups, strict=True):
            row += [Statistic(tuple(level.time(run) for run in group.runs)), _speed(level, group, baseline)]
    columns += [column for column, _ in _QUANTITIES]
    for row, group in zip(cells, groups, strict=True):
        row += [Statistic(tuple(value(run) for run in group.runs)) for _, value in _QUANTITIES]
    return Comparison(tuple(groups), baseline, levels, tuple(columns), tuple(map(tuple, cells)))


def common_loss(groups: Sequence[Group]) -> Level:
    """Return the lowest training loss that every run reaches, rounded up to three digits.

    Raises
    ------
    RunFolderError
        If a run has no training loss.
    """
    lowest = []
    for run in (run for group in groups for run in group.runs):
        losses = [record["train_loss"] for record in run.metrics if record.get("train_loss") is not None]
        if not losses:
            raise RunFolderError(f"{run.path}: no training loss recorded")
        lowest.append(min(losses))
    reached = max(lowest)
    digits = 10.0 ** (math.floor(math.log10(reached)) - 2) if reached > 0 else 1.0
    return Level("loss", math.ceil(reached / digits) * digits)


def _speed(level: Level, group: Group, baseline: Group) -> Statistic:
    ours, theirs = (Statistic(tuple(level.time(run) for run in each.runs)) for each in (group, baseline))
    if ours.mean is None or theirs.mean is None:
        return Statistic((None,))
    seeds, base_seeds = ([run.config.get("seed") for run in each.runs] for each in (group, baseline))
    if len(set(seeds)) == len(seeds) and sorted(map(repr, seeds)) == sorted(map(repr, base_seeds)):
        base = dict(zip(map(repr, base_seeds), theirs.values, strict=True))
        return Statistic(tuple(_ratio(base[repr(seed)], time) for seed, time in zip(seeds, ours.values, strict=True)))
    return Statistic((_ratio(theirs.mean, ours.mean),))


def _ratio(base: float | None, time: float | None) -> float | None:
    return None if not time or base is None else base / time


def _last(key: str) -> Callable[[RunFolder], float | None]:
    def value(run: RunFolder) -> float | None:
        return next((record[key] for record in reversed(run.metrics) if record.get(key) is not None), None)

    return value


def _workers(pick: Callable[[list[float]], float]) -> Callable[[RunFolder], float | None]:
    def value(run: RunFolder) -> float | None:
        evaluated: list[Record] = series.evaluated(run.metrics)
        shares = [share for share in evaluated[-1].get("worker_accuracy", ()) if share is not None] if evaluated else []
        return pick(shares) if shares else None

    return value


def _idle(run: RunFolder) -> float | None:
    return text.mean([text.mean(record.get("idle_share")) for record in run.metrics])


def _peer_bytes(run: RunFolder) -> float | None:
    return float(sum(count or 0 for record in run.metrics for count in record.get("peer_bytes") or ()))


_QUANTITIES: tuple[tuple[Column, Callable[[RunFolder], float | None]], ...] = (
    (Column("Rounds", 1, 0), _last("round")),
    (Column("Virtual time (s)", 1), _last("virtual_seconds")),
    (Column("Consensus accuracy (%)", 100, 1), _last("consensus_accuracy")),
    (Column("Mean worker accuracy (%)", 100, 1), _workers(lambda shares: sum(shares) / len(shares))),
    (Column("Worst worker accuracy (%)", 100, 1), _workers(min)),
    (Column("Training loss", 1), _last("train_loss")),
    (Column("Idle (%)", 100, 1), _idle),
    (Column("Peer-to-peer traffic (MB)", 1e-6), _peer_bytes),
)
