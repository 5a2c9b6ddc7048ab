"""Distance of the workers' models from their mean."""

from matplotlib.figure import Figure

from echelon.reports import series
from echelon.reports.figures import style
from echelon.reports.run_folder import Record


def draw(records: list[Record]) -> Figure:
    """Plot the consensus distance and the drift of the mean model over virtual seconds and rounds."""
    figure = style.figure(8.2, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    distance = series.scalars(records, "consensus_distance")
    drift = series.scalars(records, "mean_drift")
    alone = "o" if len(records) == 1 else ""  # a line needs two points
    for axes, (key, label) in zip(panels, style.TIMES, strict=True):
        x = series.scalars(records, key)
        axes.plot(
            x, distance, marker=alone, color=style.BLUE, lw=1.6, label="distance of the models from their mean (RMS)"
        )
        if (drift > 0).any():
            look = {"color": style.VERMILLION, "ls": (0, (5, 2)), "lw": 1.4}
            axes.plot(x, drift, marker=alone, label="drift of the mean by mixing", **look)
        style.dress(axes, x=label, y="L2 norm (parameter units)" if axes is panels[0] else "")
        style.log_if_wide(axes, [*distance.tolist(), *drift[drift > 0].tolist()])
    style.whole_numbers(panels[1].xaxis)
    style.legend_below(figure, panels[0])
    return figure
