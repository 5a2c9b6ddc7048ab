"""Distribution of the data over the workers."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from echelon.reports.figures import style
from echelon.reports.run_folder import Record
from echelon.reports.series import Array

_NUMBERED_CELLS = 200
_SHORT, _LONGEST = 2, 24  # names up to so many letters are upright, and are shown


def draw(partition: Record) -> Figure:
    """Plot the composition of the shards (samples per worker and class) and their sizes.

    Parameters
    ----------
    partition : dict
        As in ``partition.json``: ``sizes`` by rank and, if labels are known, ``class_counts`` by rank and class, and
        ``class_names``.
    """
    sizes = np.array(partition["sizes"], dtype=np.float64)
    counts = partition.get("class_counts")
    height = 1.4 + style.rows_height(len(sizes))
    if counts is None:
        figure = style.figure(4.0, height)
        bars = figure.subplots()
    else:
        figure = style.figure(8.2, height)
        cells, bars = figure.subplots(1, 2, width_ratios=[3, 1], sharey=True)
        _composition(figure, cells, np.array(counts, dtype=np.float64), partition.get("class_names"))
    bars.barh(range(len(sizes)), sizes, height=0.75, color=style.BLUE)
    style.dress(bars, x="Samples", title="Size", y="Worker (rank)" if counts is None else "")
    style.mark_ranks(bars, len(sizes))
    return figure


def _composition(figure: Figure, axes: Axes, counts: Array, names: Sequence[str] | None) -> None:
    image = axes.imshow(counts, aspect="auto", cmap="cividis", vmin=0)
    if counts.size <= _NUMBERED_CELLS:
        for (rank, label), count in np.ndenumerate(counts):
            dark = count < 0.55 * counts.max()
            axes.text(
                label, rank, f"{count:.0f}", ha="center", va="center", fontsize=7, color="white" if dark else "black"
            )
    figure.colorbar(image, ax=axes, pad=0.01, aspect=max(20, len(counts))).ax.tick_params(labelsize=8)
    style.dress(axes, x="Class", y="Worker (rank)", title="Samples by class")
    axes.grid(visible=False)
    if counts.shape[1] <= 20:
        axes.set_xticks(range(counts.shape[1]))
        if names is not None and len(names) == counts.shape[1]:
            upright = max(map(len, names)) <= _SHORT
            shown = [style.plain(str(name)[:_LONGEST]) for name in names]
            axes.set_xticklabels(shown, rotation=0 if upright else 40, ha="center" if upright else "right")
