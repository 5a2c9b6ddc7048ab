"""Samples of a partition in the plane of their first two principal components."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D

from echelon.reports.figures import style
from echelon.reports.run_folder import Record

_PANELS = 8  # workers whose samples are shown
_COLUMNS = 4
# Paul Tol's muted scheme, which colour-blind readers can distinguish.
_MUTED = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000"),
)


def height(workers: int) -> float:
    """Return the height in inches of the panels."""
    return 0.8 + 2.1 * _rows(min(workers, _PANELS))


def draw(canvas: SubFigure, projected: Record, workers: int, names: Sequence[str] | None) -> None:
    """Draw the samples of each of the first workers, coloured by class, among all samples in grey.

    Parameters
    ----------
    canvas : SubFigure
        Receives a panel per worker.
    projected : dict
        Lists by sample: coordinates ``x`` and ``y``, ``rank`` of its worker, and ``class``, from 0.
    workers : int
        Number of workers.
    names : sequence of str, optional
        Names of the classes.
    """
    x, y, rank, label = (np.array(projected[key]) for key in ("x", "y", "rank", "class"))
    classes = int(label.max()) + 1
    steps = np.linspace(0, 1, classes)
    palette = _MUTED if classes <= len(_MUTED) else list(matplotlib.colormaps["cividis"](steps))
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in palette])
    shown = min(workers, _PANELS)
    grid = canvas.subplots(_rows(shown), min(shown, _COLUMNS), squeeze=False, sharex=True, sharey=True)
    for worker, axes in enumerate(grid.flat):
        axes.set(xticks=[], yticks=[])
        axes.set_visible(worker < shown)
        mine = rank == worker
        axes.scatter(x, y, s=2, color=style.GREY, linewidths=0, rasterized=True)
        axes.scatter(x[mine], y[mine], s=6, c=colours[label[mine]], linewidths=0, rasterized=True)
        axes.set_title(f"Worker {worker}", fontsize=9)
    which = "each worker's samples" if shown == workers else f"samples of workers 0 to {shown - 1}"
    colour = "by class" if classes <= len(_MUTED) else "by class, dark to light in the order of their numbers"
    canvas.suptitle(
        f"First two principal components: {which}, {colour}, among all (grey)", fontsize=9, x=0.01, ha="left"
    )
    if classes <= len(_MUTED):
        named = names if names is not None and len(names) == classes else range(classes)
        dots = [
            Line2D([], [], marker="o", ls="", ms=4, color=colours[number], label=style.plain(str(name)[:24]))
            for number, name in enumerate(named)
        ]
        canvas.legend(handles=dots, loc="outside lower center", ncols=5 if names else 10, fontsize=8, handletextpad=0.1)


def _rows(panels: int) -> int:
    return -(-panels // _COLUMNS)
