"""Accuracy and loss over virtual seconds and rounds."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echelon.reports import series
from echelon.reports.figures import style
from echelon.reports.run_folder import Record
from echelon.reports.series import Array

_AXES = (("virtual_seconds", style.VIRTUAL_SECONDS), ("round", "Round"))


def draw(records: list[Record]) -> Figure:
    """Plot accuracy (top) and loss (bottom) over virtual seconds (left) and rounds (right).

    Each panel shows the consensus model, the mean of the workers' models, and the range from worst to best worker; the
    loss panels also show the training loss of every round.
    """
    evaluated = series.evaluated(records)
    figure = style.figure(8.2, 6.2 if evaluated else 3.4)
    grid = figure.subplots(2 if evaluated else 1, 2, sharey="row", sharex="col", squeeze=False)
    if evaluated:
        for axes, (key, _) in zip(grid[0], _AXES, strict=True):
            _models(axes, key, evaluated, "accuracy", 100)
            style.dress(axes, y="Test accuracy (%)" if key == "virtual_seconds" else "")
        grid[0][0].legend(fontsize=8, loc="lower right")
    train = series.scalars(records, "train_loss")
    for axes, (key, label) in zip(grid[-1], _AXES, strict=True):
        _models(axes, key, evaluated, "loss", 1)
        axes.plot(
            series.scalars(records, key), train, color=style.GREEN, lw=1, ls=":", label="training loss, every round"
        )
        style.dress(axes, x=label, y="Loss (nats)" if key == "virtual_seconds" else "")
        style.log_if_wide(axes, train.tolist())
    grid[-1][0].legend(fontsize=8, loc="upper right")
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
