"""Distance of the workers' models from their mean."""

from matplotlib.figure import Figure

from echelon.reports import series
from echelon.reports.figures import style
from echelon.reports.run_folder import Record


def draw(records: list[Record]) -> Figure:
    """Plot the consensus distance and the drift of the mean model over virtual seconds and rounds."""
    figure = style.figure(8.2, 3.2)
    left, right = figure.subplots(1, 2, sharey=True)
    distance = series.scalars(records, "consensus_distance")
    drift = series.scalars(records, "mean_drift")
    for axes, key, label in ((left, "virtual_seconds", style.VIRTUAL_SECONDS), (right, "round", "Round")):
        x = series.scalars(records, key)
        axes.plot(x, distance, color=style.BLUE, lw=1.6, label="distance of the models from their mean (RMS)")
        if (drift > 0).any():
            axes.plot(x, drift, color=style.VERMILLION, ls=(0, (5, 2)), lw=1.4, label="drift of the mean by mixing")
        style.dress(axes, x=label, y="L2 norm (parameter units)" if axes is left else "")
        style.log_if_wide(axes, [*distance.tolist(), *drift[drift > 0].tolist()])
    right.legend(fontsize=8)
    return figure
