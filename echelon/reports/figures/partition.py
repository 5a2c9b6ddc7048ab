"""Distribution of the data over the workers."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from echelon.reports.figures import projection, style
from echelon.reports.run_folder import Record
from echelon.reports.series import Array

_NUMBERED_CELLS = 200
_NAMED_CLASSES = 20
_SHORT, _LONGEST = 2, 24  # names up to so many letters are upright, and are shown


def draw(partition: Record) -> Figure:
    """Plot the samples of each worker by class, their number, and where they lie among all samples.

    Parameters
    ----------
    partition : dict
        As in ``partition.json``: ``sizes`` by rank and, if known, ``class_counts`` by rank and class, ``class_names``,
        and ``quality`` with a ``projection`` of the samples (``report=full``).
    """
    sizes = np.array(partition["sizes"], dtype=np.float64)
    height = 1.6 + style.rows_height(len(sizes))
    projected = (partition.get("quality") or {}).get("projection")
    if projected is None:
        figure = style.figure(8.2 if partition.get("class_counts") else 4.0, height)
        _shards(figure, partition, sizes)
        return figure
    below = projection.height(len(sizes))
    figure = style.figure(8.2, height + below)
    above, rest = figure.subfigures(2, 1, squeeze=False, height_ratios=[height, below])[:, 0]
    _shards(above, partition, sizes)
    projection.draw(rest, projected, len(sizes), partition.get("class_names"))
    return figure


def _shards(canvas: Figure | SubFigure, partition: Record, sizes: Array) -> None:
    counts = partition.get("class_counts")
    if counts is None:
        bars = canvas.subplots()
    else:
        cells, bars = canvas.subplots(1, 2, width_ratios=[3, 1], sharey=True)
        _composition(canvas, cells, np.array(counts, dtype=np.float64), partition.get("class_names"))
    bars.barh(range(len(sizes)), sizes, height=0.75, color=style.BLUE)
    style.dress(bars, x="Samples", title="All samples", y="Worker (rank)" if counts is None else "")
    style.whole_numbers(bars.xaxis)
    style.mark_ranks(bars, len(sizes))


def _composition(canvas: Figure | SubFigure, axes: Axes, counts: Array, names: Sequence[str] | None) -> None:
    image = axes.imshow(counts, aspect="auto", cmap="cividis", vmin=0)
    if counts.size <= _NUMBERED_CELLS:
        for (rank, label), count in np.ndenumerate(counts):
            dark = count < 0.55 * counts.max()
            axes.text(
                label, rank, f"{count:.0f}", ha="center", va="center", fontsize=7, color="white" if dark else "black"
            )
    style.colour_scale(canvas, image, axes, "Samples")
    style.dress(axes, x="Class", y="Worker (rank)", title="Samples by class")
    axes.grid(visible=False)
    if counts.shape[1] > _NAMED_CLASSES:
        axes.set_xlabel("Class (number)")
        style.whole_numbers(axes.xaxis)
        return
    axes.set_xticks(range(counts.shape[1]))
    if names is not None and len(names) == counts.shape[1]:
        upright = max(map(len, names)) <= _SHORT
        shown = [style.plain(str(name)[:_LONGEST]) for name in names]
        axes.set_xticklabels(shown, rotation=0 if upright else 40, ha="center" if upright else "right")
