"""Who computes, talks and waits when: the last rounds as a Gantt chart, the whole run as shares."""

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
# Hatches keep the kinds apart where colours do not.
LOOK: dict[str, dict[str, Any]] = {
    "compute": {"facecolor": style.BLUE},
    "dropped mini-batch": {"facecolor": "white", "edgecolor": style.VERMILLION, "hatch": "xxxx"},
    "communication": {"facecolor": style.ORANGE, "edgecolor": style.BLACK, "hatch": "////"},
    "idle": {"facecolor": style.GREY},
    "not present": {"facecolor": "white", "edgecolor": "#888888", "hatch": "...."},
}


def spans(records: list[Record]) -> dict[str, Array]:
    """Return how long each worker spent on what in each round.

    Returns
    -------
    dict of str to (T, N) arrays, seconds
        ``compute``, ``dropped mini-batch`` (begun and thrown away when the budget ended), ``communication``, ``idle``
        (the rest of the round), ``not present`` (a whole round). They sum to the length of the round.
    """
    workers = series.worker_count(records)
    length = np.repeat(series.round_seconds(records)[:, None], workers, axis=1)
    compute, dropped, communication = (
        series.by_rank(records, f"{kind}_seconds", workers) for kind in ("compute", "dropped", "communication")
    )
    missing = np.isnan(compute)
    compute, dropped, communication = (np.nan_to_num(value) for value in (compute, dropped, communication))
    # A budget may end later than the round, in which nobody needed all of it.
    free = np.clip(length - compute - communication, 0, None)
    dropped = np.minimum(dropped, free)
    found = {"compute": compute, "dropped mini-batch": dropped, "communication": communication, "idle": free - dropped}
    return {kind: np.where(missing, 0, value) for kind, value in found.items()} | {
        "not present": np.where(missing, length, 0)
    }


def draw(records: list[Record]) -> Figure:
    """Draw the last rounds as bars in virtual time, and what every worker's time went into over the run."""
    held = spans(records)
    workers = held["compute"].shape[1]
    figure = style.figure(8.2, 1.9 + style.rows_height(workers))
    gantt, shares = figure.subplots(1, 2, width_ratios=[3, 1], sharey=True)
    _gantt(gantt, held, series.scalars(records, "virtual_seconds"), series.round_seconds(records))
    sums = {kind: value.sum(axis=0, keepdims=True) for kind, value in held.items()}
    total = np.maximum(np.sum(list(sums.values()), axis=0), 1e-12)
    _bars(shares, np.zeros(1), {kind: 100 * value / total for kind, value in sums.items()})
    shares.set_xlim(0, 100)
    style.dress(shares, x="Share of the whole run (%)", title="All rounds")
    style.mark_ranks(gantt, workers)
    used = [Patch(label=kind, linewidth=0.3, **look) for kind, look in LOOK.items() if held[kind].any()]
    figure.legend(
        handles=used, loc="outside lower center", ncols=len(used), fontsize=8, handlelength=2.5, handleheight=1.2
    )
    return figure


def _gantt(axes: Axes, held: dict[str, Array], ends: Array, lengths: Array) -> None:
    starts = (ends - lengths)[-_LAST_ROUNDS:]
    _bars(axes, starts, {kind: value[-_LAST_ROUNDS:] for kind, value in held.items()})
    axes.vlines(starts, 0, 1, transform=axes.get_xaxis_transform(), colors=style.BLACK, linewidths=0.6, zorder=3)
    axes.set_xlim(starts[0], ends[-1])
    style.dress(axes, x=style.VIRTUAL_SECONDS, y="Worker (rank)", title=f"Last {len(starts)} of {len(ends)} rounds")


def _bars(axes: Axes, starts: Array, held: dict[str, Array]) -> None:
    """Draw one bar per round (beginning at its start) and rank, of the kinds' (T, N) widths one after the other."""
    left = np.repeat(starts[:, None], held["compute"].shape[1], axis=1)
    for kind, width in held.items():
        t, rank = np.nonzero(width)
        low, high = left[t, rank], left[t, rank] + width[t, rank]
        x, y = np.stack([low, high, high, low], axis=1), rank[:, None] + np.array([-0.38, -0.38, 0.38, 0.38])
        axes.add_collection(PolyCollection(list(np.stack([x, y], axis=2)), linewidths=0.3, **LOOK[kind]))
        left = left + width
