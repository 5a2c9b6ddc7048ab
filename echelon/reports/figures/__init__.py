"""Figures of one run, one module per figure."""

from pathlib import Path

from matplotlib.figure import Figure

from echelon.reports.figures import consensus, curves, graph, partition, style, timeline
from echelon.reports.run_folder import RunFolder


def draw(run: RunFolder) -> dict[str, Figure]:
    """Return the figures that the data of a run allows, by file name.

    ``accuracy_loss, timeline, consensus, graph`` require one finished round, ``partition`` requires ``partition.json``.
    """
    figures: dict[str, Figure] = {}
    if run.metrics:
        figures |= {
            "accuracy_loss": curves.draw(run.metrics),
            "timeline": timeline.draw(run.metrics),
            "consensus": consensus.draw(run.metrics),
            "graph": graph.draw(run.metrics),
        }
    if run.partition is not None:
        figures["partition"] = partition.draw(run.partition)
    return figures


def write(run: RunFolder) -> list[Path]:
    """Write ``figures/*.png`` into a run folder and return their paths.

    Parameters
    ----------
    run : RunFolder
        Opened for reading; may be unfinished.
    """
    return [style.save(figure, run.figures / f"{name}.png") for name, figure in draw(run).items()]
