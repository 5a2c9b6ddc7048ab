"""``summary.json``: what a finished run comes to."""

from typing import Any

import numpy as np

from echelon.reports.run_folder import RunFolder


def summarise(folder: RunFolder, samples: int, config_hash: str | None = None) -> dict[str, Any]:
    """Return the summary of a finished run.

    Parameters
    ----------
    folder : RunFolder
        With the records of all its rounds, the last of them evaluated or not.
    samples : int
        Samples that all workers have processed.
    config_hash : str, optional
        Of the configuration, where there is one.
    """
    last = folder.metrics[-1]
    known = [share for share in last.get("worker_accuracy", ()) if share is not None]
    accuracy = np.array(known) if known else np.array(np.nan)  # which becomes null
    return {
        "rounds": last["round"],
        **{name: last.get(name) for name in ("virtual_seconds", "wall_seconds", "consensus_accuracy")},
        "worker_accuracy_mean": accuracy.mean(),
        "worker_accuracy_min": accuracy.min(),
        "worker_accuracy_max": accuracy.max(),
        "train_loss": last["train_loss"],
        "samples": samples,
        "config_hash": config_hash,
        **_counts(folder),
    }


def _counts(folder: RunFolder) -> dict[str, Any]:
    """Count over a whole run, resumed or not: rounds with few workers, attempts with none, workers of some kinds."""
    return {
        "rejected_workers": sorted({int(rank) for record in folder.metrics for rank in record.get("rejections") or ()}),
        "whole_rounds": sorted({rank for record in folder.metrics for rank in record.get("whole_rounds", ())}),
        "thin_rounds": sum(bool(record.get("thin")) for record in folder.metrics),
        "empty_attempts": sum(record.get("empty_attempts", 0) for record in folder.metrics),
    }
