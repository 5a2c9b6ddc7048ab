"""Figures of one run, one module per figure."""

from pathlib import Path

from matplotlib.figure import Figure

from echelon.reports.figures import consensus, curves, graph, leaders, partition, style, timeline
from echelon.reports.run_folder import RunFolder
from echelon.reports.run_groups import describe, flatten

CAPTIONS = {
    "accuracy_loss": "Accuracy and loss of the consensus model; mean and range of the workers.",
    "timeline": "What each worker did in the last rounds, separated by lines, and in all of them.",
    "consensus": "Distance of the models from their mean, and drift of the mean.",
    "graph": "The first distinct graphs, and how often each edge was active.",
    "leaders": "Followers of each worker in each round, as leader by loss and by degree.",
    "partition": "Samples of each worker by class.",
}


def names(run: RunFolder) -> list[str]:
    """Return the names of the figures that the data of a run allows.

    ``partition`` requires ``partition.json``, ``leaders`` a round with leaders, the others one finished round.
    """
    possible = {
        **dict.fromkeys(CAPTIONS, bool(run.metrics)),
        "leaders": leaders.has_leaders(run.metrics),
        "partition": run.partition is not None,
    }
    return [name for name in CAPTIONS if possible[name]]


def draw(run: RunFolder) -> dict[str, Figure]:
    """Return the figures of a run by file name, each with a line that says which run it shows."""
    return {name: draw_one(run, name) for name in names(run)}


def draw_one(run: RunFolder, name: str) -> Figure:
    """Return the figure with one of `names`."""
    figure = partition.draw(run.partition or {}) if name == "partition" else _OF_ROUNDS[name](run.metrics)
    return style.entitle(figure, describe(flatten(run.config)))


_OF_ROUNDS = {
    "accuracy_loss": curves.draw,
    "timeline": timeline.draw,
    "consensus": consensus.draw,
    "graph": graph.draw,
    "leaders": leaders.draw,
}


def write(run: RunFolder) -> list[Path]:
    """Write ``figures/*.png`` into a run folder and return their paths.

    Parameters
    ----------
    run : RunFolder
        Opened for reading; may be unfinished.
    """
    return [style.save(figure, run.figures / f"{name}.png") for name, figure in draw(run).items()]
