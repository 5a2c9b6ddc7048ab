"""Accuracy and loss over virtual seconds and rounds."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echelon.reports import series
from echelon.reports.figures import style
from echelon.reports.run_folder import Record
from echelon.reports.series import Array


def draw(records: list[Record]) -> Figure:
    """Plot accuracy (top) and loss (bottom) over virtual seconds (left) and rounds (right).

    Each panel shows the consensus model, the mean of the workers' models, and the range from worst to best worker; the
    loss panels also show the training loss of every round.
    """
    evaluated = series.evaluated(records)
    figure = style.figure(8.2, 6.4 if evaluated else 3.6)
    grid = figure.subplots(2 if evaluated else 1, 2, sharey="row", sharex="col", squeeze=False)
    if evaluated:
        for axes, (key, _) in zip(grid[0], style.TIMES, strict=True):
            _models(axes, key, evaluated, "accuracy", 100)
            style.dress(axes, y="Test accuracy (%)" if key == "virtual_seconds" else "")
    train = series.scalars(records, "train_loss")
    alone = "o" if len(records) == 1 else ""  # a line needs two points
    for axes, (key, label) in zip(grid[-1], style.TIMES, strict=True):
        _models(axes, key, evaluated, "loss", 1)
        look = {"color": style.GREEN, "lw": 1, "ls": ":"}
        axes.plot(series.scalars(records, key), train, marker=alone, label="training loss, every round", **look)
        style.dress(axes, x=label, y="Loss (nats)" if key == "virtual_seconds" else "")
        style.log_if_wide(axes, train.tolist())
    style.whole_numbers(grid[-1][1].xaxis)
    style.legend_below(figure, grid[-1][0])
    return figure


def _models(axes: Axes, key: str, evaluated: list[Record], quantity: str, scale: float) -> None:
    if not evaluated:
        return
    x = series.scalars(evaluated, key)
    workers = scale * series.by_rank(evaluated, f"worker_{quantity}", series.worker_count(evaluated))
    low, mean, high = _spread(workers)
    axes.fill_between(x, low, high, color=style.SKY, alpha=0.35, lw=0, label="worst to best worker")
    axes.plot(x, mean, color=style.BLUE, ls=(0, (5, 2)), marker="s", ms=3, lw=1.4, label="mean of workers")
    consensus = scale * series.scalars(evaluated, f"consensus_{quantity}")
    axes.plot(x, consensus, color=style.VERMILLION, marker="o", ms=3, lw=1.6, label="consensus model")


def _spread(values: Array) -> tuple[Array, Array, Array]:
    """Return minimum, mean and maximum of each row, ignoring NaN; NaN for rows without a value."""
    valid = np.ma.masked_invalid(values)
    return (
        valid.min(axis=1).filled(np.nan),
        valid.mean(axis=1).filled(np.nan),
        valid.max(axis=1).filled(np.nan),
    )
