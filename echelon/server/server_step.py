"""One step of an asynchronous server: what has happened since the step before, and the step's record."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import networkx as nx
import numpy as np

from echelon.core.work import WorkPolicy
from echelon.server import metrics
from echelon.server.buffer import Buffer
from echelon.server.in_flight import Schedule, TimeAccount
from echelon.server.replies import Reply
from echelon.server.session import Session
from echelon.server.updates import Received


@dataclass
class ServerStep:
    """What has happened since the server's last step; ``now`` is the run's time axis, ``noted`` the clock's then."""

    now: float
    time: TimeAccount
    buffer: Buffer = field(default_factory=Buffer)
    rejections: dict[int, str] = field(default_factory=dict)
    disbelieved: dict[int, str] = field(default_factory=dict)
    offline: set[int] = field(default_factory=set)
    downlink_bytes: int = 0
    noted: float = field(default_factory=monotonic)

    def pass_to(self, now: float) -> None:
        """Let the run's time pass."""
        self.now, self.noted = now, monotonic()

    def seconds_until(self, deadline: float) -> float:
        """Return the real seconds that are left until a time on the run's axis, 0 if it is over."""
        return max(deadline - self.now - (monotonic() - self.noted), 0.0)

    def received(self, replies: dict[int, Reply]) -> Received:
        """Return the step's replies, absences and rejections."""
        return Received(replies, dict.fromkeys(self.offline, 0.0), self.rejections, self.disbelieved)


def step_record(step: ServerStep, schedule: Schedule, session: Session, work: WorkPolicy) -> dict[str, Any]:
    """Return the record of a step whose buffer has been applied."""
    size, replies = len(session.roster), step.buffer.replies()
    step.offline |= {event.rank for event in schedule.events if event.outcome is None}
    received = step.received(replies)
    absent = set(received.offline) - set(replies)
    for rank in set(range(size)) - schedule.failed - step.offline:
        end = schedule.waiting[rank].due if rank in schedule.waiting else step.now
        step.time.count(rank, float(schedule.tasks.starts[rank]), end)

    def column(values: list[Any]) -> list[float | None]:
        return [None if rank in absent else values[rank] for rank in range(size)]

    tasks = np.bincount(step.buffer.ranks, minlength=size)
    workers = metrics.worker_fields(received, [], size)
    workers["rejected"] += session.exchange.take_unasked()
    return {
        **metrics.target_fields(schedule.instructions, work),
        "target_minibatches": step.buffer.target_minibatches(size),
        "round_seconds": step.now - session.state.virtual_seconds,
        "virtual_seconds": step.now,
        **workers,
        "compute_seconds": column(step.time.computed.tolist()),
        "communication_seconds": column(step.time.communicated.tolist()),
        "idle_share": column([step.time.idle_share(rank, step.now) for rank in range(size)]),
        "staleness": step.buffer.staleness(size),
        **metrics.traffic_fields(nx.empty_graph(size), tasks.astype(np.float64), session.layout.num_bytes),
        "consensus_distance": 0.0,
        "mean_drift": 0.0,
        "uplink_bytes": sum(reply.num_bytes for reply in replies.values()),
        "downlink_bytes": step.downlink_bytes,
        "thin": False,
    }
