"""The communication graph over the rounds: drawn as a circle, with many workers as a matrix."""

from collections.abc import Sequence

import networkx as nx
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from echelon.reports import series
from echelon.reports.figures import style
from echelon.reports.graphs import COMPLETE
from echelon.reports.run_folder import Record
from echelon.reports.series import Array

_ROUND_PANELS = 3
_FEW = 24  # more workers on a circle would overlap
_THICK = 40  # more edges would cover each other

Matrix = npt.NDArray[np.bool_]


def active(record: Record, workers: int) -> Matrix:
    """Return which edges were active in a round: a symmetric (N, N) matrix."""
    matrix = np.zeros((workers, workers), dtype=bool)
    edges = record.get("edges") or ()
    if edges == COMPLETE:
        matrix[np.ix_(record["present"], record["present"])] = True
    elif edges:
        i, j = np.array(edges).T
        matrix[i, j] = matrix[j, i] = True
    np.fill_diagonal(matrix, False)
    return matrix


def draw(records: Sequence[Record]) -> Figure:
    """Draw the first distinct graphs, and how often each edge was active in the whole run.

    Parameters
    ----------
    records : sequence of dict
        At least one round.
    """
    workers = series.worker_count(records)
    total = np.zeros((workers, workers))
    times: dict[bytes, int] = {}
    first: dict[bytes, tuple[int, Matrix]] = {}
    for record in records:
        matrix = active(record, workers)
        total += matrix
        key = np.packbits(matrix).tobytes()
        times[key] = times.get(key, 0) + 1
        if key in first or len(first) < _ROUND_PANELS:
            first.setdefault(key, (record["round"], matrix))
    panels = [
        (f"Round {number}" + (f" and {times[key] - 1} more" if times[key] > 1 else ""), matrix.astype(float))
        for key, (number, matrix) in first.items()
    ]
    panels.append((f"All {len(records)} rounds", total / len(records)))
    return _circles(panels, workers) if workers <= _FEW else _matrices(panels)


def _circles(panels: Sequence[tuple[str, Array]], workers: int) -> Figure:
    figure = style.figure(2.7 * len(panels), 3.4)
    place = np.array(list(nx.circular_layout(range(workers)).values()))
    for axes, (title, shares) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        i, j = np.nonzero(np.triu(shares))
        share = shares[i, j]
        lines = np.stack([place[i], place[j]], axis=1)
        widths = (0.5 + 2 * share) * (1 if len(lines) <= _THICK else 0.5)
        axes.add_collection(LineCollection(list(lines), colors=[str(0.8 - 0.8 * x) for x in share], linewidths=widths))
        axes.scatter(*place.T, s=190, c="white", edgecolors=style.BLACK, linewidths=0.6, zorder=3)
        for rank, (x, y) in enumerate(place):
            axes.text(x, y, str(rank), ha="center", va="center", fontsize=8, zorder=4)
        axes.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
        axes.axis("off")
        axes.set_title(title, fontsize=9)
    figure.supxlabel("All rounds: the darker an edge, the more often active", fontsize=8)
    return figure


def _matrices(panels: Sequence[tuple[str, Array]]) -> Figure:
    figure = style.figure(0.9 + 2.7 * len(panels), 3.6)
    grid: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True)
    for axes, (title, shares) in zip(grid, panels, strict=True):
        image = axes.imshow(100 * shares, cmap="Greys", vmin=0, vmax=100)
        style.dress(axes, x="Worker (rank)", y="Worker (rank)" if axes is grid[0] else "")
        axes.set_title(title, fontsize=9)
        axes.grid(visible=False)
        style.whole_numbers(axes.xaxis)
        style.whole_numbers(axes.yaxis)
    style.colour_scale(figure, image, list(grid), "Active (% of the rounds)")
    return figure
