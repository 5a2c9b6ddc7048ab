"""The record of a round: the parts of one line of ``metrics.jsonl``."""

from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from echelon.core.work import WorkPolicy
from echelon.server.instructions import Orders
from echelon.server.nodes import Roster
from echelon.server.updates import Received

Floats = NDArray[np.float64]


def communication_seconds(models_sent: Floats, model_bytes: int, roster: Roster) -> Floats:
    """Return each worker's communication time, shape (N,): latency + models * bytes / bandwidth; 0 if it sends none."""
    seconds = roster.latency_seconds + models_sent * model_bytes / roster.bandwidth
    return np.where(models_sent > 0, seconds, 0.0)


def times(
    received: Received, models_sent: Floats, model_bytes: int, roster: Roster, waited_in_vain: float
) -> dict[str, Any]:
    """Return the round's duration on the run's time axis, and each worker's communication and idle share of it.

    The duration is the maximum over workers of computing plus communication. It is no less than ``waited_in_vain``
    (what a silent worker cost, if finite); when everybody is away it is the time until the first one is back. What went
    into a late reply lies in earlier rounds and does not count.
    """
    communication = communication_seconds(models_sent, model_bytes, roster)
    in_time = {rank: reply for rank, reply in received.replies.items() if rank not in received.folded}
    busy = {rank: reply.report.seconds + float(communication[rank]) for rank, reply in in_time.items()}
    least = waited_in_vain if np.isfinite(waited_in_vain) else 0.0
    if not busy:
        least = max(least, min((s for s in received.away.values() if np.isfinite(s)), default=0.0))
    duration = max([*busy.values(), least])
    ranks = range(len(roster))
    return {
        "round_seconds": duration,
        "communication_seconds": [float(communication[rank]) if rank in busy else None for rank in ranks],
        "idle_share": [1 - busy[rank] / duration if rank in busy and duration > 0 else None for rank in ranks],
    }


def workers(received: Received, silent: list[int], num_workers: int) -> dict[str, Any]:
    """Return what the workers reported, as lists by rank (None where a worker was absent), and who was absent why."""
    reports = {rank: reply.report for rank, reply in received.replies.items()}

    def column(name: str) -> list[Any]:
        return [getattr(reports[rank], name) if rank in reports else None for rank in range(num_workers)]

    losses = [report.train_loss for report in reports.values() if report.samples]
    return {
        "train_loss": float(np.mean(losses)) if losses else float("nan"),
        "train_loss_per_worker": column("train_loss"),
        "minibatches": column("minibatches"),
        "samples": column("samples"),
        "compute_seconds": column("seconds"),
        "dropped_seconds": column("dropped_seconds"),
        "present": list(reports),
        "away": sorted(received.away),
        "late": sorted([*silent, *received.dropped]),
        "rejected": len(received.rejections),
        "rejections": {str(rank): reason for rank, reason in sorted(received.rejections.items())},
    }


def asked(orders: Orders, work: WorkPolicy) -> dict[str, Any]:
    """Return what the workers were asked for."""
    return {
        "round": orders.server_round,
        "budget_seconds": orders.budget_seconds if np.isfinite(orders.budget_seconds) else None,
        "target_minibatches": [orders.target_minibatches(rank, work) for rank in range(len(orders.batch_sizes))],
    }


def peer_traffic(graph: nx.Graph, models_sent: Floats, model_bytes: int) -> dict[str, Any]:
    """Return who averaged with whom, and the bytes that each worker would send in a peer-to-peer deployment."""
    return {
        "edges": sorted([min(edge), max(edge)] for edge in graph.edges),
        "peer_bytes": [round(float(models) * model_bytes) for models in models_sent],
    }
