"""Figures of one run, one module per figure."""

from pathlib import Path

from matplotlib.figure import Figure

from echelon.reports.figures import consensus, curves, graph, partition, style, timeline
from echelon.reports.run_folder import RunFolder

CAPTIONS = {
    "accuracy_loss": "Accuracy and loss of the consensus model; mean and range of the workers.",
    "timeline": "What each worker did in the last rounds, and in all of them.",
    "consensus": "Distance of the models from their mean, and drift of the mean.",
    "graph": "The distinct graphs with their leaders, and how often each edge was active.",
    "partition": "Samples of each worker by class.",
}


def draw(run: RunFolder) -> dict[str, Figure]:
    """Return the figures that the data of a run allows, by file name.

    ``accuracy_loss, timeline, consensus, graph`` require one finished round, ``partition`` requires ``partition.json``.
    """
    figures = {name: draw_one(run, name) for name in CAPTIONS}
    return {name: figure for name, figure in figures.items() if figure is not None}


def draw_one(run: RunFolder, name: str) -> Figure | None:
    """Return the figure of this name, or None if the data of the run does not allow it yet."""
    if name == "partition":
        return None if run.partition is None else partition.draw(run.partition)
    return _OF_ROUNDS[name](run.metrics) if run.metrics else None


_OF_ROUNDS = {
    "accuracy_loss": curves.draw,
    "timeline": timeline.draw,
    "consensus": consensus.draw,
    "graph": graph.draw,
}


def write(run: RunFolder) -> list[Path]:
    """Write ``figures/*.png`` into a run folder and return their paths.

    Parameters
    ----------
    run : RunFolder
        Opened for reading; may be unfinished.
    """
    return [style.save(figure, run.figures / f"{name}.png") for name, figure in draw(run).items()]
