"""Deterministic synthetic run folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from echelon.reports.run_folder import RunFolder

EDGES = [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 7], [0, 7], [0, 4], [1, 5]]
MODEL_BYTES = 40_000


def config_yaml(strategy: str, work: str, seed: int, workers: int = 8, rounds: int = 30) -> str:
    lines = [f"seed: {seed}", f"rounds: {rounds}", f"workers: {workers}", "learning_rate: 0.1"]
    lines += ["strategy:", f"  name: {strategy}"] + (["  c1: 0.3", "  c2: 0.1"] if strategy == "al_dsgd" else [])
    lines += ["work:", f"  name: {work}", "task:", "  name: digits", f"run_dir: runs/{strategy}-{work}-{seed}"]
    return "\n".join(lines) + "\n"


def records(strategy: str, work: str, seed: int, workers: int = 8, rounds: int = 30) -> list[dict[str, Any]]:
    """Records of a run with two slow workers; under non-blocking work every worker stops at 8 s."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(len(strategy), len(work))))
    tau = np.ones(workers)
    tau[-2:] = (2.0, 4.0)[-workers:]
    target = 8
    edges = [edge for edge in EDGES if max(edge) < workers]
    edges += [[rank, (rank + 1) % workers] for rank in range(7, workers)] if workers > 8 else []
    virtual, rows = 0.0, []
    for t in range(1, rounds + 1):
        seconds = tau * rng.uniform(0.95, 1.05, workers)
        budget = target * 1.02 if work == "non_blocking" else None
        done = np.full(workers, target) if budget is None else np.clip(budget // seconds, 1, target).astype(int)
        absent = {5} if t % 10 == 4 and workers > 5 else set()
        refused = {2: "not finite"} if t % 15 == 7 else {}
        present = [rank for rank in range(workers) if rank not in absent and rank not in refused]
        active = [edge for k, edge in enumerate(edges) if (k + t) % 3] if strategy in ("matcha", "al_dsgd") else edges
        degree = np.bincount(np.array(active, dtype=int).ravel(), minlength=workers)
        compute, communication = seconds * done, 0.1 + 0.05 * degree
        dropped = np.where(done < target, np.maximum((budget or 0) - compute, 0), 0)
        length = float((compute + communication)[present].max())
        virtual += length
        floor = {"al_dsgd": 0.08, "d_psgd": 0.12}.get(strategy, 0.1)
        losses = floor + 2.2 * np.exp(-0.12 * t) * rng.uniform(0.9, 1.1, workers)

        def by_rank(values: Any, present: list[int] = present, as_type: Callable[[Any], Any] = float) -> list[Any]:
            return [as_type(values[rank]) if rank in present else None for rank in range(workers)]

        row: dict[str, Any] = {
            "round": t,
            "virtual_seconds": virtual,
            "round_seconds": length,
            "wall_seconds": 0.2 * t,
            "train_loss": float(losses[present].mean()),
            "train_loss_per_worker": by_rank(losses),
            "minibatches": by_rank(done, as_type=int),
            "samples": by_rank(done * 32, as_type=int),
            "target_minibatches": [target] * workers,
            "budget_seconds": budget,
            "compute_seconds": by_rank(compute),
            "dropped_seconds": by_rank(dropped),
            "communication_seconds": by_rank(communication),
            "idle_share": by_rank(1 - (compute + communication) / length),
            "present": present,
            "rejected": len(refused),
            "rejections": {str(rank): reason for rank, reason in refused.items()},
            "consensus_distance": float(0.5 * np.exp(-0.05 * t) + 0.01),
            "mean_drift": 0.01 / t if strategy == "al_dsgd" else 0.0,
            "edges": active,
            "peer_bytes": (degree * MODEL_BYTES).tolist(),
            "uplink_bytes": len(present) * MODEL_BYTES,
            "downlink_bytes": workers * MODEL_BYTES,
        }
        if strategy == "al_dsgd":
            best, high = [], []
            for rank in range(workers):
                around = [rank] + [j for i, j in active if i == rank] + [i for i, j in active if j == rank]
                around = [other for other in around if other in present] or [rank]
                best.append(min(around, key=lambda other: losses[other]))
                high.append(max(around, key=lambda other: degree[other]))
            row |= {"leaders_best": by_rank(best, as_type=int), "leaders_degree": by_rank(high, as_type=int)}
        if t % 5 == 0 or t == rounds:
            accuracy = 0.97 - 0.8 * np.exp(-0.1 * t) - rng.uniform(0, 0.04, workers)
            row |= {
                "consensus_accuracy": float(accuracy.max() + 0.01),
                "consensus_loss": float(losses.mean() + 0.05),
                "worker_accuracy": accuracy.tolist(),
                "worker_loss": (losses + 0.1).tolist(),
            }
        rows.append(row)
    return rows


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    last = rows[-1]
    workers = last["worker_accuracy"]
    return {
        "rounds": last["round"],
        "virtual_seconds": last["virtual_seconds"],
        "wall_seconds": last["wall_seconds"],
        "consensus_accuracy": last["consensus_accuracy"],
        "worker_accuracy_mean": sum(workers) / len(workers),
        "worker_accuracy_min": min(workers),
        "worker_accuracy_max": max(workers),
        "train_loss": last["train_loss"],
        "samples": sum(count or 0 for row in rows for count in row["samples"]),
        "config_hash": "0" * 16,
    }


def write_run(
    path: Path,
    strategy: str = "al_dsgd",
    work: str = "non_blocking",
    seed: int = 0,
    workers: int = 8,
    rounds: int = 30,
    classes: int = 10,
    finished: bool = True,
) -> RunFolder:
    """Write a synthetic run folder and return it opened for reading."""
    folder = RunFolder.create(path, config_yaml(strategy, work, seed, workers, rounds))
    counts = np.random.default_rng(seed).integers(0, 40, (workers, classes))
    partition = {"sizes": counts.sum(axis=1).tolist(), "class_counts": counts.tolist()}
    (path / "partition.json").write_text(json.dumps(partition), encoding="utf-8")
    rows = records(strategy, work, seed, workers, rounds)
    for row in rows:
        folder.append_metrics(row)
    if finished:
        folder.write_summary(summary_of(rows))
    return RunFolder.open(path)
