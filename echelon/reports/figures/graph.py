"""The communication graph, its rounds and its leaders."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from echelon.reports import series
from echelon.reports.figures import style
from echelon.reports.graphs import COMPLETE
from echelon.reports.leaders import followers
from echelon.reports.run_folder import Record

_ROUND_PANELS = 3
_FEW = 24
# The edges of a complete graph of more workers would be a filled circle; its title says it.
_MANY = 100
Edges = frozenset[tuple[int, int]]
Place = Mapping[int, tuple[float, float]]


def edges_of(record: Record) -> Edges:
    """Return a round's active edges, each with the lower rank first."""
    edges = record.get("edges") or ()
    if edges == COMPLETE:
        edges = combinations(sorted(record["present"]), 2) if _is_drawn(record) else ()
    return frozenset((min(i, j), max(i, j)) for i, j in edges)


def _is_drawn(record: Record) -> bool:
    return record.get("edges") != COMPLETE or len(record["present"]) <= _MANY


def draw(records: list[Record]) -> Figure:
    """Draw the first distinct graphs with their leaders, and the activity of edges over the whole run.

    Parameters
    ----------
    records : list of dict
        At least one round.
    """
    workers = series.worker_count(records)
    first: dict[Edges, Record] = {}
    times = Counter(edges_of(record) for record in records)
    for record in records:
        first.setdefault(edges_of(record), record)
    shown = list(first.items())[:_ROUND_PANELS]
    side = 2.7 if workers <= _FEW else 3.6
    figure = style.figure(side * (len(shown) + 1), side + 0.6)
    panels = figure.subplots(1, len(shown) + 1, squeeze=False)[0]
    place = {rank: (float(x), float(y)) for rank, (x, y) in nx.circular_layout(range(workers)).items()}
    for axes, (edges, record) in zip(panels, shown, strict=False):
        more = f" and {times[edges] - 1} more" if times[edges] > 1 else ""
        kind = "" if _is_drawn(record) else ": complete"
        _round(axes, edges, record, place, f"Round {record['round']}{more}{kind}")
    _whole_run(panels[-1], records, place)
    text = "all rounds: darker edges were active more often"
    if any(record.get("leaders_best") for record in records):
        text = f"filled: leader by loss (arrows to its followers)     thick ring: leader by degree     {text}"
    figure.supxlabel(text, fontsize=8)
    return figure


def _round(axes: Axes, edges: Edges, record: Record, place: Place, title: str) -> None:
    best, degree = followers(record)
    lines = [(place[i], place[j]) for i, j in edges]
    axes.add_collection(LineCollection(lines, colors="#888888", linewidths=1.2, zorder=1))
    few = len(place) <= _FEW
    size = {"lw": 1.4, "shrinkA": 8, "shrinkB": 8} if few else {"lw": 0.8, "shrinkA": 4, "shrinkB": 4}
    arrow = {"arrowstyle": "-|>", "color": style.VERMILLION, **size}
    for follower, leader in enumerate(record.get("leaders_best") or ()):
        if leader is not None and leader != follower:
            axes.annotate("", place[follower], place[leader], arrowprops=arrow, zorder=2)
    fills = [style.ORANGE if best[rank] else "white" for rank in place]
    _workers(axes, place, fills, [(2.6 if few else 1.8) if degree[rank] else 0.6 for rank in place])
    _frame(axes, title)


def _whole_run(axes: Axes, records: list[Record], place: Place) -> None:
    times = Counter(edge for record in records for edge in edges_of(record))
    lines = [(place[i], place[j]) for i, j in times]
    shares = [count / len(records) for count in times.values()]
    greys = [str(0.8 - 0.8 * share) for share in shares]
    widths = [0.5 + 3 * share for share in shares]
    axes.add_collection(LineCollection(lines, colors=greys, linewidths=widths, zorder=1))
    _workers(axes, place, ["white"] * len(place), [0.6] * len(place))
    _frame(axes, f"All {len(records)} rounds")


def _workers(axes: Axes, place: Place, fills: Sequence[str], rings: Sequence[float]) -> None:
    few = len(place) <= _FEW
    x, y = zip(*place.values(), strict=True)
    axes.scatter(x, y, s=190 if few else 50, c=fills, edgecolors=style.BLACK, linewidths=rings, zorder=3)
    for rank, (at_x, at_y) in place.items():
        axes.text(at_x, at_y, str(rank), ha="center", va="center", fontsize=8 if few else 4.5, zorder=4)


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
    axes.axis("off")
