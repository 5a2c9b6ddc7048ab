"""The README's figure and sentence: the default run, blocking and non-blocking, on one axis of virtual seconds.

python -m benchmarks.experiments.hero
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.experiments.runner import arguments, sweep
from echelon.reports import series
from echelon.reports.figures import style, timeline
from echelon.reports.run_folder import Record

# By the title of its rows: what is overridden, and the colour of its line.
RUNS = {
    "Blocking: everyone waits for the slowest": (["work=full_batch"], style.VERMILLION),
    "Non-blocking: everyone submits what is finished": (["work=non_blocking"], style.BLUE),
}
FIGURE, RESULTS = Path("docs/figures/hero.png"), Path("benchmarks/results/hero.json")
BLOCKING_ROUNDS = 4


def main() -> None:
    options = arguments("Draw the README's figure.")
    options.seeds = 1
    names = dict(zip(("blocking", "non_blocking"), RUNS.values(), strict=True))
    found = sweep({f"hero/{name}": overrides for name, (overrides, _) in names.items()}, options)
    runs = [of_seeds[0].metrics for of_seeds in found.values()]
    results, figure = (options.out / "hero.json", options.out / "hero.png") if options.overrides else (RESULTS, FIGURE)
    style.save(draw(runs), figure)
    results.write_text(
        json.dumps({name: measured(run) for name, run in zip(names, runs, strict=True)}, indent=2) + "\n"
    )
    print(f"{figure}\n{results}\n{results.read_text()}", end="")


def measured(records: list[Record]) -> dict[str, float]:
    """Return accuracy, virtual seconds and the share of the workers' time that is idle, in percent."""
    idle = np.mean([np.nanmean(np.array(record["idle_share"], dtype=float)) for record in records])
    last = records[-1]
    return {
        "accuracy": round(100 * last["consensus_accuracy"], 1),
        "virtual_seconds": round(last["virtual_seconds"], 1),
        "idle": round(100 * float(idle)),
    }


def draw(runs: list[list[Record]]) -> Figure:
    """Plot what the workers do in the first rounds, a row of axes for each run, and accuracy over virtual time."""
    workers = series.worker_count(runs[0])
    rows = style.rows_height(workers)
    figure = style.figure(8.2, 3.6 + 2 * rows)
    *gantts, curves = figure.subplots(3, 1, height_ratios=[rows, rows, 1.8])
    until = runs[0][BLOCKING_ROUNDS - 1]["virtual_seconds"]
    used: set[str] = set()
    for axes, records, (title, (_, colour)) in zip(gantts, runs, RUNS.items(), strict=True):
        used |= _gantt(axes, records, until, title)
        shown = [record for record in records if record.get("consensus_accuracy") is not None]
        accuracy = [100 * record["consensus_accuracy"] for record in shown]
        seconds = [record["virtual_seconds"] for record in shown]
        curves.plot(seconds, accuracy, color=colour, label=title.split(":")[0], linewidth=1.6)
        curves.plot(seconds[-1:], accuracy[-1:], "o", color=colour)
        curves.annotate(
            f"{accuracy[-1]:.1f} % after {seconds[-1]:.1f} s",
            (seconds[-1], accuracy[-1]),
            xytext=(8, -4) if records is runs[-1] else (0, -16),
            textcoords="offset points",
            ha="left" if records is runs[-1] else "right",
            fontsize=9,
            color=colour,
        )
    gantts[0].set_xlabel("")
    style.dress(
        curves,
        x=style.VIRTUAL_SECONDS,
        y="Accuracy (%)",
        title=f"Accuracy of the consensus model in {len(runs[0])} rounds each",
    )
    curves.set_xlim(left=0)
    curves.legend(loc="lower right", fontsize=8)
    handles = [Patch(label=kind, linewidth=0.3, **look) for kind, look in timeline.LOOK.items() if kind in used]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, handlelength=2.5, handleheight=1.2
    )
    return figure


def _gantt(axes: Axes, records: list[Record], until: float, title: str) -> set[str]:
    """Draw the rounds that begin before ``until``; return the kinds of activity among them."""
    ends, lengths = series.scalars(records, "virtual_seconds"), series.round_seconds(records)
    shown = ends - lengths < until
    widths = {kind: value[shown] for kind, value in timeline.spans(records).items()}
    timeline.bars(axes, (ends - lengths)[shown], widths)
    axes.vlines(ends[shown], 0, 1, transform=axes.get_xaxis_transform(), colors=style.BLACK, linewidths=0.6, zorder=3)
    axes.set_xlim(0, until)
    style.dress(axes, x=style.VIRTUAL_SECONDS, y="Worker", title=title)
    style.mark_ranks(axes, len(widths["compute"][0]))
    return {kind for kind, value in widths.items() if value.any()}


if __name__ == "__main__":
    main()
