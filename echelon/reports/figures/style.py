"""One look for all figures: legible in grey print and to colour-blind readers."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito 2008, "Color universal design", in an order that also separates in grey.
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
_DPI = 160


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches that is drawn without any global state."""
    return Figure(figsize=(width, height), layout="constrained")


def dress(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Label axes (quantity and unit), with a light grid behind and no frame on the right and on top."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(which="both", labelsize=8)
    axes.grid(color=GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def mark_ranks(axes: Axes, workers: int) -> None:
    """Make the y axis one line per worker, rank 0 on top; of many workers mark every fourth."""
    axes.set_yticks(range(0, workers, 1 if workers <= 24 else 4))
    axes.set_ylim(workers - 0.5, -0.5)


def rows_height(workers: int) -> float:
    """Return how many inches the lines of so many workers need."""
    return (0.28 if workers <= 24 else 0.12) * workers


def log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    """Make the y axis logarithmic where positive values span more than a factor of 20."""
    found = [value for value in values if value == value]
    if found and min(found) > 0 and max(found) > 20 * min(found):
        axes.set_yscale("log")


def line(number: int) -> dict[str, object]:
    """Return colour, line style and marker of the so-manieth of several lines."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def save(drawn: Figure, path: Path) -> Path:
    """Write a figure as PNG, or as what the name's ending says."""
    drawn.savefig(path, dpi=_DPI, facecolor="white")
    return path
