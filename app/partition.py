"""The partition of a run: which samples each worker trains on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.features import KEYS as FEATURE_KEYS
from app.features import compared_features
from app.fleet import make_fleet
from app.keywords import keywords
from conf import Config, groups
from echelon.algorithms.seeds import rng
from echelon.reports.progress import Advance, Progress
from partitioners import REGISTRY, Partitioner, quality, storage
from strategies import Partition, Roster
from tasks import Task

Indices = NDArray[np.int64]

# Samples that no worker gets when leaders are chosen by the loss on a held-out batch.
_HELD_OUT = 256


def held_out(config: Config, num_samples: int) -> Indices:
    """Return the training samples that no worker gets, shape (n,): none, unless leaders are chosen by their loss."""
    chosen = config.strategy
    if not isinstance(chosen, groups.ALDSGD) or not (chosen.robust or chosen.signal == "held_out"):
        return np.empty(0, dtype=np.int64)
    count = min(_HELD_OUT, num_samples // 10)
    drawn: Indices = np.sort(rng(config.seed, "selection").choice(num_samples, count, replace=False))
    return drawn


def to_partition(config: Config, num_samples: int) -> Indices:
    """Return the training samples that the workers share, shape (n,)."""
    return np.setdiff1d(np.arange(num_samples), held_out(config, num_samples))


def make_partition(config: Config, task: Task, folder: Path, view: Progress, roster: Roster) -> Partition:
    """Partition the training samples among the registered workers; write ``partition.npz`` and ``partition.json``.

    A resumed run keeps its partition.

    Raises
    ------
    ValueError
        If the partitioner cannot divide these samples in these ratios.
    """
    ratios = capability_ratios(config, roster)
    batch_ratios = ratios if config.proportional_batches else None
    if is_local(config):
        return Partition(None, batch_ratios)
    pool = to_partition(config, len(task.train))
    labels = task.train.y.numpy()[pool]
    earlier = folder / "partition.npz"
    if config.resume is not None and earlier.exists():
        parts = storage.load(earlier, labels)
    else:
        features = None
        if compares_features(config):
            with view.stage("Computing features"):
                features = compared_features(config, task)[pool]
        with view.stage(f"Partitioning {len(pool)} samples ({config.partitioner.name})") as advance:
            partitioner = build_partitioner(config, task, pool, advance)
            parts = partitioner(labels, ratios.tolist(), rng(config.seed, "partition"), features)
        with view.stage("Measuring the partition"):
            found = _report(config, parts, labels, ratios, features)
            storage.save(folder, parts, labels, ratios.tolist(), found, task.class_names)
    empty = [rank for rank, part in enumerate(parts) if not len(part)]
    if empty:
        raise ValueError(
            f"worker {empty[0]} gets none of the {len(pool)} samples: raise its share (partitioner.ratios)"
        )
    return Partition([pool[part] for part in parts], batch_ratios)


def compares_features(config: Config) -> bool:
    """Return whether samples are compared by their features: by the partitioner, or by the report on its parts."""
    return config.report == "full" or (not is_local(config) and REGISTRY[config.partitioner.name].needs_features)


def _report(
    config: Config,
    parts: list[Indices],
    labels: Indices,
    ratios: NDArray[np.float64],
    features: NDArray[np.float32] | None,
) -> dict[str, object] | None:
    """Return the quality of a partition, as far as it is asked for."""
    if config.report == "none":
        return None
    return quality.report(parts, labels, ratios.tolist(), features if config.report == "full" else None).to_json()


def capability_ratios(config: Config, roster: Roster) -> NDArray[np.float64]:
    """Return the configured capability ratios by rank, shape (N,): equal, of the fleet, measured, or given numbers.

    Raises
    ------
    ValueError
        If there is not one ratio for every worker, or a worker's speed has not been measured.
    """
    ratios = config.partitioner.ratios
    if isinstance(ratios, list):
        if len(ratios) != config.workers:
            raise ValueError(
                f"partitioner.ratios must hold one number per worker ({config.workers}); got {len(ratios)}"
            )
        return np.array(ratios, dtype=np.float64)
    if ratios == "fleet":
        fleet = make_fleet(config)
        return np.array([fleet.device(rank).samples_per_second for rank in range(config.workers)])
    if ratios == "measured":
        speeds = roster.samples_per_second
        if not np.isfinite(speeds).all():
            rank = int(np.argmin(np.isfinite(speeds)))
            raise ValueError(f"partitioner.ratios=measured needs every worker's speed; worker {rank} gave none")
        return speeds
    return np.ones(config.workers)


def is_local(config: Config) -> bool:
    """Return whether every worker brings its own data, so that there is nothing to partition."""
    return config.partitioner.name == "local"


def build_partitioner(config: Config, task: Task, pool: Indices, progress: Advance | None = None) -> Partitioner:
    """Return the partitioner of a configuration, for any choice but ``local``.

    Its parameters are the choice's own keys, and whichever of ``groups`` and ``progress`` its class takes. The keys
    that say how to compute features are not the partitioner's: app/features.py uses them.

    Parameters
    ----------
    config : Config
    task : Task
    pool : (n,) int64 array
        Training samples to partition.
    progress : callable, optional
        Called with (done, total).

    Raises
    ------
    ValueError
        If a key is out of range, or the partitioner needs what the task does not have.
    """
    chosen = config.partitioner
    cls = REGISTRY[chosen.name]
    offered: dict[str, Callable[[], Any]] = {
        "groups": lambda: _groups(chosen.name, task, pool),
        "progress": lambda: progress or False,
    }
    return cls(**keywords(cls, chosen, groups.Partitioner, offered, leave_out=FEATURE_KEYS))


def _groups(name: str, task: Task, pool: Indices) -> NDArray[np.int64]:
    if task.groups is None:
        raise ValueError(f"partitioner={name} needs a task with groups; {task.name} has none")
    return np.asarray(task.groups.numpy()[pool], dtype=np.int64)
