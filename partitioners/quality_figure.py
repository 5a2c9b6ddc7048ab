"""The figure of a quality report."""

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from .quality import Projection, Report

# Paul Tol's muted scheme, which colour-blind readers can distinguish.
_MUTED = ("332288", "88CCEE", "44AA99", "117733", "999933", "DDCC77", "CC6677", "882255", "AA4499", "000000")
_PANELS = 8  # workers whose samples are shown
_LABELLED = 0.04  # segments wider than this fraction of the axis are labelled with their class


def figure(report: Report) -> Figure:
    """Return class bars per worker and, where features were given, a projection of each worker's samples."""
    if report.projection is None:
        result = Figure(figsize=(6.4, 4.8), layout="constrained")
        _bars(result, report)
        return result
    result = Figure(figsize=(13.6, 5.6), layout="constrained")
    places = result.add_gridspec(1, 2, width_ratios=[0.44, 0.56])
    _bars(result.add_subfigure(places[0]), report)
    _panels(result.add_subfigure(places[1]), report, report.projection)
    return result


def _colours(classes: int) -> list[tuple[float, float, float, float]]:
    """Return a colour per class: distinct colours for up to ten classes, otherwise steps from dark to light."""
    few = ListedColormap([f"#{code}" for code in _MUTED])
    many = matplotlib.colormaps["cividis"]
    return [few(index) if classes <= len(_MUTED) else many(index / (classes - 1)) for index in range(classes)]


def _bars(canvas: Figure | SubFigure, report: Report) -> None:
    axes = canvas.subplots()
    counts, colours = np.array(report.class_counts), _colours(len(report.classes))
    starts = np.cumsum(counts, axis=1) - counts
    ranks, widest = np.arange(len(counts)), counts.sum(axis=1).max()
    for column, colour in enumerate(colours):
        axes.barh(ranks, counts[:, column], left=starts[:, column], color=colour, edgecolor="white", linewidth=0.3)
        dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.55
        for rank in ranks if len(counts) <= 2 * _PANELS else ():
            if counts[rank, column] > _LABELLED * widest:
                middle = starts[rank, column] + counts[rank, column] / 2
                text = str(report.classes[column])
                axes.text(
                    middle, float(rank), text, ha="center", va="center", fontsize=8, color="white" if dark else "black"
                )
    axes.set(xlabel="samples", ylabel="worker", title="Samples of each class")
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_yticks(ranks if len(ranks) <= 32 else ranks[:: -(-len(ranks) // 16)])
    axes.spines[["top", "right"]].set_visible(False)
    if len(colours) <= len(_MUTED):
        handles = [Patch(color=colour, label=str(label)) for colour, label in zip(colours, report.classes, strict=True)]
        canvas.legend(
            handles=handles,
            title="class",
            loc="outside lower center",
            ncols=len(colours),
            handlelength=1.0,
            handletextpad=0.4,
            columnspacing=1.0,
            frameon=False,
        )
    else:
        scale = ScalarMappable(Normalize(0, len(colours) - 1), matplotlib.colormaps["cividis"])
        canvas.colorbar(scale, ax=axes, label="class, in the order of their numbers", location="bottom", shrink=0.8)


def _panels(canvas: SubFigure, report: Report, projection: Projection) -> None:
    shown = min(len(report.sizes), _PANELS)
    columns = min(shown, 4)
    every = np.array(_colours(len(report.classes)))[np.searchsorted(report.classes, projection.labels)]
    x, y = projection.coordinates.T
    grid = canvas.subplots(-(-shown // columns), columns, squeeze=False, sharex=True, sharey=True)
    for rank, axes in enumerate(grid.flat):
        axes.set(xticks=[], yticks=[])
        if rank >= shown:
            axes.set_visible(False)
            continue
        mine = projection.owner == rank
        axes.scatter(x, y, s=2, color="#DDDDDD", linewidths=0, rasterized=True)
        axes.scatter(x[mine], y[mine], s=7, c=every[mine], linewidths=0, rasterized=True)
        axes.set_title(f"worker {rank}", fontsize=10)
    which = "each worker's samples" if shown == len(report.sizes) else f"samples of workers 0 to {shown - 1}"
    canvas.suptitle(f"First two principal components: {which} among all (grey)", fontsize=11)
