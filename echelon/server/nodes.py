"""The handshake: which node is which worker, what it holds and how fast it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from echelon.core.layout import ModelParts
from echelon.protocol.messages import CONFIG, ROSTER_QUERY, RosterEntry

QUERY_TYPE = f"query.{ROSTER_QUERY}"


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
    left_out : set of int
        Workers that have another model.
    """

    entries: list[RosterEntry]
    node_ids: list[int]
    parts: ModelParts | None = None
    left_out: set[int] = field(default_factory=set)
    shard_sizes: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.shard_sizes = np.array([entry.num_examples for entry in self.entries], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of workers N."""
        return len(self.entries)

    def ranks(self) -> dict[int, int]:
        """Return the rank of every node id."""
        return {node_id: rank for rank, node_id in enumerate(self.node_ids)}

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
    if reply.has_error():
        return None
    try:
        return RosterEntry.from_content(reply.content)
    except (KeyError, TypeError, ValueError):
        return None


def build_roster(answers: Mapping[int, RosterEntry | None]) -> Roster:
    """Order the nodes by rank.

    Parameters
    ----------
    answers : mapping of node id to RosterEntry or None
        Nodes without an entry get the ranks that are left, in the order of their ids.

    Raises
    ------
    RosterError
        If there is no node, or two nodes claim one rank, or a rank is out of range.
    """
    if not answers:
        raise RosterError("no node has connected: start SuperNodes, or raise roster_timeout")
    ranked: dict[int, int] = {}
    for node_id, entry in sorted(answers.items()):
        if entry is None:
            continue
        if not 0 <= entry.rank < len(answers):
            raise RosterError(
                f"a node claims rank {entry.rank}; with {len(answers)} nodes ranks are 0..{len(answers) - 1}"
            )
        if entry.rank in ranked:
            raise RosterError(f"two nodes claim rank {entry.rank}: give every SuperNode its own rank in --node-config")
        ranked[entry.rank] = node_id
    unranked = sorted(node_id for node_id, entry in answers.items() if entry is None)
    free = [rank for rank in range(len(answers)) if rank not in ranked]
    ranked.update(zip(free, unranked, strict=True))
    node_ids = [ranked[rank] for rank in range(len(answers))]
    return Roster([answers[node_id] or RosterEntry(rank) for rank, node_id in enumerate(node_ids)], node_ids)
