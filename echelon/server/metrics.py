"""The record of a round: the fields of one line of ``metrics.jsonl``."""

from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from echelon.algorithms.mixing import consensus_distance
from echelon.core.mixing import Complete, Mixing
from echelon.core.targets import RoundTargets
from echelon.core.work import WorkPolicy
from echelon.server.instructions import Round
from echelon.server.nodes import Roster
from echelon.server.session import Session
from echelon.server.updates import Received

Floats = NDArray[np.float64]


def round_record(
    begun: Round,
    received: Received,
    timed_out: list[int],
    mixing: Mixing,
    session: Session,
    work: WorkPolicy,
) -> dict[str, Any]:
    """Return the record of a synchronous round whose models have been mixed."""
    state, layout, roster = session.state, session.layout, session.roster
    timeout_seconds = begun.instructions.budget_seconds + begun.grace_seconds if timed_out else 0.0
    record = shared_fields(
        begun.instructions, received, timed_out, mixing, layout.num_bytes, roster, work, timeout_seconds
    )
    record["rejected"] += session.exchange.take_unasked()
    record |= {
        "virtual_seconds": state.virtual_seconds + record["round_seconds"],
        "consensus_distance": consensus_distance(state.rows[:, session.mixed]),
        "uplink_bytes": sum(reply.num_bytes for reply in received.replies.values()),
        "downlink_bytes": begun.downlink_bytes,
        "grace_seconds": begun.grace_seconds if np.isfinite(begun.grace_seconds) else None,
    }
    if session.processor.whole_rounds:
        record["whole_rounds"] = sorted(session.processor.whole_rounds)
    return record


def shared_fields(
    targets: RoundTargets,
    received: Received,
    timed_out: list[int],
    mixing: Mixing,
    model_bytes: int,
    roster: Roster,
    work: WorkPolicy,
    timeout_seconds: float = 0.0,
) -> dict[str, Any]:
    """Return what the record of a synchronous round says with and without a server."""
    record = target_fields(targets, work)
    record |= time_fields(received, mixing.models_sent, model_bytes, roster, timeout_seconds)
    record |= worker_fields(received, timed_out, len(roster))
    record |= traffic_fields(mixing.graph, mixing.models_sent, model_bytes)
    record["thin"] = is_thin(received, len(roster))
    if mixing.leaders is not None and mixing.leaders.active:
        record |= {"leaders_best": mixing.leaders.best.tolist(), "leaders_degree": mixing.leaders.degree.tolist()}
    return record


def is_thin(received: Received, num_workers: int) -> bool:
    """Return whether fewer than half of the workers took part, not counting those that the strategy does without."""
    return 2 * len(received.replies) < num_workers - len(received.dropped)


def communication_seconds(models_sent: Floats, model_bytes: int, roster: Roster) -> Floats:
    """Return each worker's communication time, shape (N,): latency + models * bytes / bandwidth; 0 if it sends none."""
    seconds = roster.latency_seconds + models_sent * model_bytes / roster.bandwidth
    return np.where(models_sent > 0, seconds, 0.0)


def time_fields(
    received: Received, models_sent: Floats, model_bytes: int, roster: Roster, timeout_seconds: float
) -> dict[str, Any]:
    """Return the round's duration on the run's time axis, and each worker's communication time and idle share.

    The duration is the maximum over workers of computing plus communication. It is at least ``timeout_seconds`` (the
    wait for a worker that timed out, if finite); when all workers are offline it lasts until the first one returns.
    The time that a late reply took lies in earlier rounds and does not count.
    """
    communication = communication_seconds(models_sent, model_bytes, roster)
    in_time = {rank: reply for rank, reply in received.replies.items() if rank not in received.late}
    busy = {rank: reply.report.seconds + float(communication[rank]) for rank, reply in in_time.items()}
    least = timeout_seconds if np.isfinite(timeout_seconds) else 0.0
    if not busy:
        least = max(least, min((s for s in received.offline.values() if np.isfinite(s)), default=0.0))
    duration = max([*busy.values(), least])
    ranks = range(len(roster))
    return {
        "round_seconds": duration,
        "communication_seconds": [float(communication[rank]) if rank in busy else None for rank in ranks],
        "idle_share": [1 - busy[rank] / duration if rank in busy and duration > 0 else None for rank in ranks],
    }


def worker_fields(received: Received, timed_out: list[int], num_workers: int) -> dict[str, Any]:
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
        "away": sorted(received.offline),
        "late": sorted([*timed_out, *received.dropped]),
        "rejected": len(received.rejections),
        "rejections": {str(rank): reason for rank, reason in sorted(received.rejections.items())},
        "disbelieved": {str(rank): reason for rank, reason in sorted(received.disbelieved.items())},
    }


def target_fields(instructions: RoundTargets, work: WorkPolicy) -> dict[str, Any]:
    """Return what the workers were instructed to compute."""
    ranks = range(len(instructions.batch_sizes))
    return {
        "round": instructions.round,
        "budget_seconds": instructions.budget_seconds if np.isfinite(instructions.budget_seconds) else None,
        "target_minibatches": [instructions.target_minibatches(rank, work.minibatch_size) for rank in ranks],
    }


def traffic_fields(graph: nx.Graph | Complete, models_sent: Floats, model_bytes: int) -> dict[str, Any]:
    """Return who averaged with whom, and the bytes that each worker would send in a peer-to-peer deployment."""
    listed = "complete" if isinstance(graph, Complete) else sorted([min(edge), max(edge)] for edge in graph.edges)
    return {
        "edges": listed,
        "peer_bytes": [round(float(models) * model_bytes) for models in models_sent],
    }
