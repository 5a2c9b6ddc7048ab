"""What every engine does with a run's results: write and show each round's record, and draw the figures."""

from collections.abc import Callable, Mapping
from typing import Any

from echelon.persistent import signals
from echelon.reports.progress import Progress
from echelon.reports.run_folder import RunFolder
from echelon.reports.tracking import Tracker

Record = dict[str, Any]


def recorder(folder: RunFolder, tracker: Tracker, view: Progress) -> Callable[[Record], None]:
    """Return a function that takes the record of a round: written, tracked and shown."""

    def report(record: Record) -> None:
        folder.append_metrics(record)
        tracker.log(record)
        view.round(record)

    return report


def show(folder: RunFolder, view: Progress, summary: Mapping[str, Any]) -> None:
    """Draw the run's figures and show its result."""
    with view.stage("Drawing figures"), signals.interruptible():
        from echelon.reports import figures  # here, because matplotlib is slow to import

        figures.write(RunFolder.open(folder.path))
    view.finish(summary)
