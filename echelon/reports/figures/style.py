"""Common style of all figures, legible in greyscale and for colour-blind readers."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

# Okabe & Ito 2008, "Color universal design", in an order that also works in greyscale.
BLACK, BLUE, ORANGE, GREEN = "#000000", "#0072B2", "#E69F00", "#009E73"
VERMILLION, SKY, PURPLE, YELLOW = "#D55E00", "#56B4E9", "#CC79A7", "#F0E442"
GREY = "#DDDDDD"
COLOURS = (BLUE, VERMILLION, GREEN, BLACK, PURPLE, ORANGE, SKY)
# Seven colours and five line styles: 35 lines before a pair repeats.
LINES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1)),
    (0, (5, 1, 1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
)
MARKERS = "osD^vPX"

VIRTUAL_SECONDS = "Virtual time (s)"
# The two horizontal axes of a run: fields of a record, with labels.
TIMES = (("virtual_seconds", VIRTUAL_SECONDS), ("round", "Round"))
_DPI = 160
_LETTERS = 15  # of a title per inch


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of the given size in inches, without global pyplot state."""
    return Figure(figsize=(width, height), layout="constrained")


def entitle(drawn: Figure, text: str) -> Figure:
    """Say above a figure what it shows, in as many lines as that takes; return the figure."""
    drawn.suptitle(plain(textwrap.fill(text, int(_LETTERS * drawn.get_figwidth()))), fontsize=8, color="#555555")
    return drawn


def legend_below(canvas: Figure | SubFigure, axes: Axes) -> None:
    """Put the legend of one panel below all of them, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, handlelength=3)


def colour_scale(canvas: Figure | SubFigure, image: Any, axes: Any, label: str) -> None:
    """Add the scale of colours of an image of counts."""
    bar = canvas.colorbar(image, ax=axes, pad=0.01, aspect=30)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    whole_numbers(bar.ax.yaxis)


def whole_numbers(axis: Axis) -> None:
    """Put ticks at whole numbers only, on an axis of counts."""
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def dress(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Label axes (quantity and unit), add a light grid and remove the top and right spines."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(which="both", labelsize=8)
    axes.grid(color=GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain(text: str) -> str:
    """Return a text that is drawn as written: between dollar signs matplotlib would typeset a formula, or fail."""
    return text.replace("$", r"\$")


def mark_ranks(axes: Axes, workers: int) -> None:
    """Use one row per worker on the y axis, rank 0 on top; label every fourth of more than 24 workers."""
    axes.set_yticks(range(0, workers, 1 if workers <= 24 else 4))
    axes.set_ylim(workers - 0.5, -0.5)


def rows_height(workers: int) -> float:
    """Return the height in inches of the rows of `workers` workers."""
    return (0.28 if workers <= 24 else 0.12) * workers


def log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    """Make the y axis logarithmic if the values are for it."""
    if is_wide(values):
        axes.set_yscale("log")


def is_wide(values: Sequence[float]) -> bool:
    """Return whether all values are positive and span more than a factor of 20."""
    known = [value for value in values if value == value]
    return bool(known) and min(known) > 0 and max(known) > 20 * min(known)


def line(number: int) -> dict[str, Any]:
    """Return colour, line style and marker of line `number`."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def save(drawn: Figure, path: Path) -> Path:
    """Write a figure in the format of the file extension."""
    drawn.savefig(path, dpi=_DPI, facecolor="white")
    return path
