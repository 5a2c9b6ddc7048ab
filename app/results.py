"""What a run leaves, whichever engine does it: records, summary and figures."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from conf import Config, config_hash
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


def summary(config: Config, folder: RunFolder, samples: int) -> Record:
    """Return the summary of a finished run, given its folder and the samples that all workers have processed."""
    last = folder.metrics[-1]
    known = [share for share in last.get("worker_accuracy", ()) if share is not None]
    accuracy = np.array(known) if known else np.array(np.nan)  # which becomes null
    return {
        "rounds": last["round"],
        **{name: last[name] for name in ("virtual_seconds", "wall_seconds", "consensus_accuracy")},
        "worker_accuracy_mean": accuracy.mean(),
        "worker_accuracy_min": accuracy.min(),
        "worker_accuracy_max": accuracy.max(),
        "train_loss": last["train_loss"],
        "samples": samples,
        "config_hash": config_hash(config),
        **_counts(folder),
    }


def show(folder: RunFolder, view: Progress, summary: Mapping[str, Any]) -> None:
    """Draw the run's figures and show its result."""
    with view.stage("Drawing figures"), signals.interruptible():
        from echelon.reports import figures  # here, because matplotlib is slow to import

        figures.write(RunFolder.open(folder.path))
    view.finish(summary)


def _counts(folder: RunFolder) -> Record:
    """Count over a whole run, resumed or not: rounds with few workers, attempts with none, clients without a budget."""
    return {
        "whole_rounds": sorted({rank for record in folder.metrics for rank in record.get("whole_rounds", ())}),
        "thin_rounds": sum(bool(record.get("thin")) for record in folder.metrics),
        "empty_attempts": sum(record.get("empty_attempts", 0) for record in folder.metrics),
    }
