"""The leaders of AL-DSGD over the rounds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from echelon.reports import series
from echelon.reports.figures import style
from echelon.reports.leaders import followers
from echelon.reports.run_folder import Record


def has_leaders(records: Sequence[Record]) -> bool:
    """Return whether any round has leaders."""
    return any(record.get("leaders_best") or record.get("leaders_degree") for record in records)


def draw(records: Sequence[Record]) -> Figure:
    """Plot the number of followers of each worker in each round, as leader by loss and as leader by degree.

    Parameters
    ----------
    records : sequence of dict
        At least one round.
    """
    workers = series.worker_count(records)
    counts = np.zeros((2, workers, len(records)))
    for t, record in enumerate(records):
        for kind, of_round in zip(counts, followers(record), strict=True):
            kind[list(of_round), t] = list(of_round.values())
    figure = style.figure(8.2, 1.5 + style.rows_height(workers))
    panels = figure.subplots(1, 2, sharey=True)
    rounds = [record["round"] for record in records]
    extent = (rounds[0] - 0.5, rounds[-1] + 0.5, workers - 0.5, -0.5)
    most = max(1.0, counts.max())
    for axes, kind, title in zip(panels, counts, ("Leader by loss", "Leader by degree"), strict=True):
        image = axes.imshow(kind, aspect="auto", cmap="cividis", vmin=0, vmax=most, extent=extent)
        alone = "" if kind.any() else ": nobody has followers"
        style.dress(axes, x="Round", title=f"{title}{alone}", y="Worker (rank)" if axes is panels[0] else "")
        axes.grid(visible=False)
        style.whole_numbers(axes.xaxis)
    style.mark_ranks(panels[0], workers)
    style.colour_scale(figure, image, panels, "Followers")
    return figure
