"""The handshake: which node is which worker, what it holds and how fast it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from echelon.core.layout import ModelParts
from echelon.protocol.messages import CONFIG, ROSTER_QUERY, RosterEntry
from echelon.server.identity import Identities

QUERY_TYPE = f"query.{ROSTER_QUERY}"

# An answer has two.
_MOST_RECORDS = 16


class RosterError(RuntimeError):
    """The nodes' answers do not make a roster of ranks 0..N-1."""


@dataclass
class Roster:
    """The workers of a run by rank.

    Attributes
    ----------
    entries : list of RosterEntry
        By rank.
    node_ids : list of int
        Flower's id of each worker's node; it changes when a node comes back under a new one.
    parts : ModelParts or None
        What the workers' model is made of, once they have agreed on it.
    """

    entries: list[RosterEntry]
    node_ids: list[int]
    parts: ModelParts | None = None
    shard_sizes: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.shard_sizes = np.array([entry.num_examples for entry in self.entries], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of workers N."""
        return len(self.entries)

    def ranks(self) -> dict[int, int]:
        """Return the rank of every node id."""
        return {node_id: rank for rank, node_id in enumerate(self.node_ids)}

    def rank_of(self, node_id: int) -> int | None:
        """Return the rank of a node; None if it has none."""
        return self.node_ids.index(node_id) if node_id in self.node_ids else None

    @property
    def samples_per_second(self) -> NDArray[np.float64]:
        """Measured or known speeds, shape (N,)."""
        return np.array([entry.samples_per_second for entry in self.entries])

    @property
    def seconds_per_minibatch(self) -> NDArray[np.float64]:
        """Estimates for the first round's budget, shape (N,)."""
        return np.array([entry.seconds_per_minibatch for entry in self.entries])

    @property
    def latency_seconds(self) -> NDArray[np.float64]:
        """Latencies, shape (N,)."""
        return np.array([entry.latency_seconds for entry in self.entries])

    @property
    def bandwidth(self) -> NDArray[np.float64]:
        """Bandwidths in bytes per second, shape (N,)."""
        return np.array([entry.bandwidth for entry in self.entries])


def roster_query(node_id: int, config: ConfigRecord) -> Message:
    """Return the handshake's question to one node."""
    return Message(RecordDict({CONFIG: config}), dst_node_id=node_id, message_type=QUERY_TYPE)


def read_answer(reply: Message) -> RosterEntry | None:
    """Return a node's entry, or None from a client that does not know the question (a foreign ClientApp)."""
    if reply.has_error() or len(reply.content) > _MOST_RECORDS:
        return None
    try:
        return RosterEntry.from_content(reply.content)
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Assignment:
    """Which node has which rank.

    Attributes
    ----------
    nodes : dict of int to int
        Node id by rank.
    left_out : dict of int to str
        Why a node that answered the handshake has no rank.
    """

    nodes: dict[int, int] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)

    def missing(self, num_workers: int) -> list[int]:
        """Return the ranks without a node."""
        return [rank for rank in range(num_workers) if rank not in self.nodes]


def assign(answers: Mapping[int, RosterEntry | None], num_workers: int, identities: Identities) -> Assignment:
    """Give nodes the ranks that they claim, then the others the ranks that are left.

    Of two nodes that claim the same rank, the one that was registered first has it.

    Parameters
    ----------
    answers : mapping of node id to RosterEntry or None
        Nodes without an entry get the ranks that are left, in the order of their ids.
    num_workers : int
        Number of ranks N.
    identities : Identities
        Objects to nodes that must not have a rank.
    """
    made = Assignment()
    for node_id in identities.by_seniority(answers):
        entry = answers[node_id]
        if entry is not None:
            reason = _refusal(made, node_id, entry.rank, num_workers, identities)
            if reason is None:
                made.nodes[entry.rank] = node_id
            else:
                made.left_out[node_id] = f"it claims rank {entry.rank}, but {reason}"
    for node_id in sorted(node_id for node_id, entry in answers.items() if entry is None):
        free = (rank for rank in made.missing(num_workers) if identities.objection(rank, node_id) is None)
        rank = next(free, None)
        if rank is None:
            made.left_out[node_id] = "it claims no rank, and none is left for it"
        else:
            made.nodes[rank] = node_id
    return made


def _refusal(made: Assignment, node_id: int, rank: int, num_workers: int, identities: Identities) -> str | None:
    if rank >= num_workers:
        return f"ranks are 0..{num_workers - 1}"
    if rank in made.nodes:
        return f"node {made.nodes[rank]} has it"
    return identities.objection(rank, node_id)


def build_roster(made: Assignment, answers: Mapping[int, RosterEntry | None]) -> Roster:
    """Return the roster of an assignment of all ranks."""
    node_ids = [node_id for _, node_id in sorted(made.nodes.items())]
    return Roster([answers.get(node_id) or RosterEntry(rank) for rank, node_id in enumerate(node_ids)], node_ids)
