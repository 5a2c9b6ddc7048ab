"""Measures of a run: smoothed loss, time to a loss, accuracies, bytes."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from echelon.reports.run_folder import RunFolder

_WINDOW = 10


def smooth_loss(run: RunFolder) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the training loss averaged over ten rounds, because single rounds are noisy."""
    losses = np.array([record["train_loss"] for record in run.metrics], dtype=float)
    sums = np.cumsum(np.insert(losses, 0, 0.0))
    starts = np.maximum(np.arange(1, len(losses) + 1) - _WINDOW, 0)
    ends = np.arange(1, len(losses) + 1)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def common_loss(runs: Iterable[RunFolder]) -> float:
    """Return the lowest smoothed loss that every run reaches."""
    return max(float(smooth_loss(run).min()) for run in runs)


def seconds_to(run: RunFolder, loss: float) -> float:
    """Return the virtual seconds until the smoothed loss first reaches ``loss``; infinite if it never does."""
    reached = np.flatnonzero(smooth_loss(run) <= loss + 1e-12)
    return float(run.metrics[reached[0]]["virtual_seconds"]) if reached.size else float("inf")


def final(run: RunFolder, key: str) -> float:
    """Return a value of the summary."""
    assert run.summary is not None, f"{run.path} is not finished"
    return float(run.summary[key])


def last(run: RunFolder, key: str) -> list[float]:
    """Return a list by rank of the last evaluated round."""
    return [float(value) for value in next(r[key] for r in reversed(run.metrics) if r.get(key) is not None)]


def late(run: RunFolder, key: str, of: Callable[[Any], Any] = float) -> float:
    """Return the mean over the evaluations of the last third of the rounds of a field, or of ``of`` a list by rank."""
    shown = [r[key] for r in run.metrics if r.get(key) is not None and r["round"] > 2 * len(run.metrics) / 3]
    return float(np.mean([of(value) for value in shown]))


def mean_of(run: RunFolder, key: str) -> float:
    """Return the mean of a field over rounds (and present workers)."""
    values = [np.mean([v for v in np.atleast_1d(record[key]) if v is not None]) for record in run.metrics]
    return float(np.mean(values))


def peer_megabytes(run: RunFolder) -> float:
    """Return the megabytes per worker and round sent in a peer-to-peer deployment."""
    return mean_of(run, "peer_bytes") / 1e6
