"""Figures that compare groups of runs: curves, times to a level, and workers' activity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from echelon.reports import series
from echelon.reports.comparison import Comparison, Statistic
from echelon.reports.figures import style, timeline
from echelon.reports.run_folder import Record
from echelon.reports.run_groups import Group, common, describe
from echelon.reports.series import Array

_ROW = 0.42


def draw(comparison: Comparison) -> dict[str, Figure]:
    """Return the figures of a comparison by file name: ``curves``, ``times``, ``activity``."""
    groups = comparison.groups
    drawn = {"curves": curves(groups), "times": times(comparison), "activity": activity(groups)}
    shared = describe(common(groups))
    return {name: style.entitle(figure, f"All runs: {shared}") for name, figure in drawn.items()}


def curves(groups: Sequence[Group]) -> Figure:
    """Plot training loss and consensus accuracy over virtual seconds and rounds: means and ranges over seeds."""
    figure = style.figure(8.2, 6.6 + 0.17 * len(groups))
    grid = figure.subplots(2, 2, sharey="row", sharex="col")
    lowest: list[float] = []
    for number, group in enumerate(groups):
        look = style.line(number)
        for row, quantity, scale in ((0, "train_loss", 1.0), (1, "consensus_accuracy", 100.0)):
            for axes, x in zip(grid[row], ("virtual_seconds", "round"), strict=True):
                course = over_seeds(group, x, quantity)
                if course is not None:
                    at, low, mean, high = course
                    _line(axes, at, scale * low, scale * mean, scale * high, look, style.plain(group.label))
                    lowest += mean.tolist() if row == 0 else []
    style.dress(grid[0][0], y="Training loss (nats)")
    style.dress(grid[0][1])
    style.dress(grid[1][0], x=style.VIRTUAL_SECONDS, y="Consensus accuracy (%)")
    style.dress(grid[1][1], x="Round")
    style.log_if_wide(grid[0][0], lowest)
    handles, labels = grid[0][0].get_legend_handles_labels()
    style.whole_numbers(grid[1][1].xaxis)
    figure.legend(handles, labels, loc="outside lower center", ncols=1, fontsize=8, handlelength=4)
    return figure


def over_seeds(group: Group, x: str, y: str) -> tuple[Array, Array, Array, Array] | None:
    """Return a quantity over the runs of a group, interpolated on their common range.

    Returns
    -------
    tuple of four (K,) arrays, or None
        Points on the x axis, and the minimum, mean and maximum of the runs there. None without a common range.
    """
    samples: list[tuple[Array, Array]] = []
    for run in group.runs:
        records: list[Record] = [record for record in run.metrics if record.get(y) is not None]
        samples.append((series.scalars(records, x), series.scalars(records, y)))
    if any(len(at) == 0 for at, _ in samples):
        return None
    start, end = max(at[0] for at, _ in samples), min(at[-1] for at, _ in samples)
    if start > end:
        return None
    first = samples[0][0]
    points = np.unique([start, *first[(first >= start) & (first <= end)], end])
    values = np.stack([np.interp(points, at, value) for at, value in samples])
    return points, values.min(axis=0), values.mean(axis=0), values.max(axis=0)


def times(comparison: Comparison) -> Figure:
    """Plot the time to each level: bars for means, dots for runs, compared with the baseline."""
    levels, groups = comparison.levels, comparison.groups
    figure = style.figure(8.2, 0.9 + (0.5 + _ROW * len(groups)) * len(levels))
    for axes, level in zip(figure.subplots(len(levels), 1, squeeze=False)[:, 0], levels, strict=True):
        first = next(j for j, column in enumerate(comparison.columns) if column.heading == f"Time to {level} (s)")
        time, ratio = comparison.columns[first : first + 2]
        for number, row in enumerate(comparison.cells):
            _time(axes, number, row[first], time.write(row[first]), ratio.write(row[first + 1]))
        axes.margins(x=0.35)
        axes.set_xlim(left=0)
        title = f"Time to {level}, compared with {style.plain(comparison.baseline.label)}"
        style.dress(axes, x=style.VIRTUAL_SECONDS, title=title)
        _rows(axes, groups)
    return figure


def activity(groups: Sequence[Group]) -> Figure:
    """Plot workers' activity as shares of the total time of all workers and runs of a group."""
    figure = style.figure(8.2, 1.4 + _ROW * len(groups))
    axes = figure.subplots()
    used: dict[str, Patch] = {}
    for number, group in enumerate(groups):
        spans = [timeline.spans(run.metrics) for run in group.runs]
        sums = {kind: sum(float(span[kind].sum()) for span in spans) for kind in spans[0]}
        left, total = 0.0, max(sum(sums.values()), 1e-12)
        for kind, seconds in sums.items():
            look = timeline.LOOK[kind]
            if seconds:
                axes.barh(number, 100 * seconds / total, left=left, height=0.6, linewidth=0.3, **look)
                used.setdefault(kind, Patch(label=kind, linewidth=0.3, **look))
            left += 100 * seconds / total
    axes.set_xlim(0, 100)
    style.dress(axes, x="Share of the workers' time (%)")
    _rows(axes, groups)
    figure.legend(handles=list(used.values()), loc="outside lower center", ncols=5, fontsize=8, handlelength=2.5)
    return figure


def _time(axes: Axes, number: int, needed: Statistic, text: str, ratio: str) -> None:
    if needed.mean is None:
        axes.text(0, number, f" {text}", va="center", fontsize=8)
        return
    axes.barh(number, needed.mean, height=0.6, color=style.SKY, edgecolor=style.BLACK, linewidth=0.6)
    runs = [value for value in needed.values if value is not None]
    axes.scatter(runs, [number] * len(runs), s=12, color=style.BLACK, zorder=3)
    axes.text(max(runs), number, "" if ratio == "–" else f"   {ratio}", va="center", fontsize=8)


def _line(axes: Axes, at: Array, low: Array, mean: Array, high: Array, look: dict[str, Any], label: str) -> None:
    axes.fill_between(at, low, high, color=look["color"], alpha=0.18, lw=0)
    axes.plot(at, mean, lw=1.5, ms=4, markevery=max(1, len(at) // 6), label=label, **look)


def _rows(axes: Axes, groups: Sequence[Group]) -> None:
    axes.set_yticks(range(len(groups)), [style.plain(group.label) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
