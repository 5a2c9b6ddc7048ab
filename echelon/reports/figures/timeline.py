"""Workers' activity: the last rounds as a Gantt chart, the whole run as shares."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from echelon.reports import series
from echelon.reports.figures import style
from echelon.reports.run_folder import Record
from echelon.reports.series import Array

_LAST_ROUNDS = 8
# Hatches distinguish the kinds without colour.
LOOK: dict[str, dict[str, Any]] = {
    "compute": {"facecolor": style.BLUE},
    "dropped mini-batch": {"facecolor": "white", "edgecolor": style.VERMILLION, "hatch": "xxxx"},
    "communication": {"facecolor": style.ORANGE, "edgecolor": style.BLACK, "hatch": "////"},
    "idle": {"facecolor": style.GREY},
    "not present": {"facecolor": "white", "edgecolor": "#888888", "hatch": "---"},
}


def spans(records: list[Record]) -> dict[str, Array]:
    """Return the time of each worker by activity and round.

    Returns
    -------
    dict of str to (T, N) arrays, seconds
        ``compute``, ``dropped mini-batch`` (discarded at the end of the budget), ``communication``, ``idle``
        (the rest of the round), ``not present`` (the whole round). They sum to the length of the round.
    """
    workers = series.worker_count(records)
    length = np.repeat(series.round_seconds(records)[:, None], workers, axis=1)
    compute, dropped, communication = (
        series.by_rank(records, f"{kind}_seconds", workers) for kind in ("compute", "dropped", "communication")
    )
    missing = np.isnan(compute)
    compute, dropped, communication = (np.nan_to_num(value) for value in (compute, dropped, communication))
    # A budget may exceed the round if no worker used all of it.
    free = np.clip(length - compute - communication, 0, None)
    dropped = np.minimum(dropped, free)
    activities = {
        "compute": compute,
        "dropped mini-batch": dropped,
        "communication": communication,
        "idle": free - dropped,
    }
    return {kind: np.where(missing, 0, value) for kind, value in activities.items()} | {
        "not present": np.where(missing, length, 0)
    }


def draw(records: list[Record]) -> Figure:
    """Plot the last rounds as bars in virtual time, and the shares of each worker's time over the run."""
    widths = spans(records)
    workers = widths["compute"].shape[1]
    figure = style.figure(8.2, 1.9 + style.rows_height(workers))
    gantt, shares = figure.subplots(1, 2, width_ratios=[3, 1], sharey=True)
    _gantt(gantt, widths, series.scalars(records, "virtual_seconds"), series.round_seconds(records))
    sums = {kind: value.sum(axis=0, keepdims=True) for kind, value in widths.items()}
    total = np.maximum(np.sum(list(sums.values()), axis=0), 1e-12)
    bars(shares, np.zeros(1), {kind: 100 * value / total for kind, value in sums.items()})
    shares.set_xlim(0, 100)
    style.dress(shares, x="Share of the whole run (%)", title="All rounds")
    style.mark_ranks(gantt, workers)
    used = [Patch(label=kind, linewidth=0.3, **look) for kind, look in LOOK.items() if widths[kind].any()]
    figure.legend(
        handles=used, loc="outside lower center", ncols=len(used), fontsize=8, handlelength=2.5, handleheight=1.2
    )
    return figure


def _gantt(axes: Axes, widths: dict[str, Array], ends: Array, lengths: Array) -> None:
    starts = (ends - lengths)[-_LAST_ROUNDS:]
    bars(axes, starts, {kind: value[-_LAST_ROUNDS:] for kind, value in widths.items()})
    axes.vlines(starts, 0, 1, transform=axes.get_xaxis_transform(), colors=style.BLACK, linewidths=0.6, zorder=3)
    axes.set_xlim(starts[0], ends[-1])
    style.dress(axes, x=style.VIRTUAL_SECONDS, y="Worker (rank)", title=f"Last {len(starts)} of {len(ends)} rounds")


def bars(axes: Axes, starts: Array, widths: dict[str, Array]) -> None:
    """Draw one stacked bar per round and rank, from the start of the round, with (T, N) widths by kind."""
    left = np.repeat(starts[:, None], widths["compute"].shape[1], axis=1)
    for kind, width in widths.items():
        t, rank = np.nonzero(width)
        low, high = left[t, rank], left[t, rank] + width[t, rank]
        x, y = np.stack([low, high, high, low], axis=1), rank[:, None] + np.array([-0.38, -0.38, 0.38, 0.38])
        axes.add_collection(PolyCollection(list(np.stack([x, y], axis=2)), linewidths=0.3, **LOOK[kind]))
        left = left + width
