"""The partition plan of a run: which sample each worker trains on."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import partitioners
from app.features import compared_features
from app.fleet import make_fleet
from conf import Config, groups
from echelon.algorithms.seeds import rng
from echelon.reports.figures import style
from echelon.reports.progress import Advance, Progress
from echelon.reports.run_folder import RunFolder
from partitioners import plan as plans
from partitioners import quality
from strategies import Partition, Roster
from tasks import Task

Indices = NDArray[np.int64]

# Samples kept out of everybody's shard when leaders are chosen by the loss on a shared batch.
_HELD_OUT = 256


def held_out(config: Config, num_samples: int) -> Indices:
    """Return the training samples that no worker gets, shape (n,): none, unless leaders are chosen by their loss."""
    chosen = config.strategy
    if not isinstance(chosen, groups.ALDSGD) or chosen.signal != "held_out":
        return np.empty(0, dtype=np.int64)
    count = min(_HELD_OUT, num_samples // 10)
    drawn: Indices = np.sort(rng(config.seed, "selection").choice(num_samples, count, replace=False))
    return drawn


def make_partition(config: Config, task: Task, folder: Path, view: Progress, roster: Roster) -> Partition:
    """Partition the training samples among the workers that have enrolled; write ``partition.npz`` and ``.json``.

    A resumed run keeps the partition that it had.

    Raises
    ------
    ValueError
        If the partitioner cannot divide these samples in these ratios.
    """
    ratios = capability_ratios(config, roster)
    batch_ratios = ratios if config.proportional_batches else None
    if config.partitioner.name == "local":
        return Partition(None, batch_ratios)
    pool = np.setdiff1d(np.arange(len(task.train)), held_out(config, len(task.train)))
    labels = task.train.y.numpy()[pool]
    earlier = folder / "partition.npz"
    if config.resume is not None and earlier.exists():
        parts = plans.load(earlier, labels)
    else:
        with view.stage("Computing features"):
            features = compared_features(config, task)[pool]
        with view.stage(f"Partitioning {len(pool)} samples ({config.partitioner.name})") as advance:
            partitioner = _partitioner(config, task, pool, advance)
            parts = partitioner(labels, ratios.tolist(), rng(config.seed, "partition"), features)
        with view.stage("Measuring the partition"):
            report = quality.report(parts, labels, ratios.tolist(), features)
            plans.save(folder, parts, labels, ratios.tolist(), report.to_json())
            style.save(report.figure(), RunFolder(folder).figures / "partition_quality.png")
    empty = [rank for rank, part in enumerate(parts) if not len(part)]
    if empty:
        raise ValueError(
            f"worker {empty[0]} gets none of the {len(pool)} samples: raise its share (partitioner.ratios)"
        )
    return Partition([pool[part] for part in parts], batch_ratios)


def capability_ratios(config: Config, roster: Roster) -> NDArray[np.float64]:
    """Return the workers' shares as configured: equal, the fleet's speeds, those of the handshake, or given numbers."""
    wanted = config.partitioner.ratios
    if isinstance(wanted, list):
        return np.array(wanted, dtype=np.float64)
    if wanted == "fleet":
        fleet = make_fleet(config)
        return np.array([fleet.device(rank).samples_per_second for rank in range(config.workers)])
    if wanted == "measured":
        speeds = roster.samples_per_second
        if not np.isfinite(speeds).all():
            silent = int(np.argmin(np.isfinite(speeds)))
            raise ValueError(f"partitioner.ratios=measured needs every worker's speed; worker {silent} gave none")
        return speeds
    return np.ones(config.workers)


def _partitioner(config: Config, task: Task, pool: Indices, advance: Advance) -> partitioners.Partitioner:
    chosen = config.partitioner
    options: dict[str, Any] = {}
    match chosen:
        case groups.Submodular():
            options = {
                "objective": chosen.objective,
                "selection": chosen.selection,
                "kernel": chosen.kernel,
                "bandwidth": chosen.bandwidth,
                "lam": chosen.lam,
                "max_kernel_bytes": chosen.max_kernel_bytes,
                "jobs": chosen.jobs,
                "progress": advance,
            }
        case groups.Dirichlet():
            options = {"alpha": chosen.alpha}
        case groups.Shards():
            options = {"classes_per_worker": chosen.classes_per_worker}
        case groups.File():
            options = {"path": Path(chosen.path)}
        case _ if chosen.name == "by_group":
            if task.groups is None:
                raise ValueError(f"partitioner=by_group needs a task with groups; {task.name} has none")
            options = {"groups": task.groups.numpy()[pool]}
    return partitioners.build(chosen.name, **options)
