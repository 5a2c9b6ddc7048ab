"""Which node may hold which rank: by the configuration, or by the key with which a node first identified itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from flwr.serverapp import Grid

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class NodeInfo(Protocol):
    """What Flower tells of a node (a part of ``flwr.proto.node_pb2.NodeInfo``); unknown fields are empty."""

    node_id: int
    public_key: bytes
    registered_at: str


@dataclass(frozen=True)
class Nodes:
    """The nodes that may take part in a run.

    Parameters
    ----------
    ids : tuple of int
        Flower's node ids by rank. Further ones are spares, which may have the rank of any node that is gone.
    num_workers : int
        Number of workers N.

    Raises
    ------
    ValueError
        If there are fewer ids than workers, or one comes twice.

    Examples
    --------
    >>> from echelon.server.identity import Nodes
    >>> nodes = Nodes((11, 12, 99), num_workers=2)
    >>> nodes.may_hold(0, 11), nodes.may_hold(0, 12), nodes.may_hold(0, 99)
    (True, False, True)
    """

    ids: tuple[int, ...]
    num_workers: int

    def __post_init__(self) -> None:
        if len(self.ids) < self.num_workers:
            raise ValueError(f"nodes must list the ids of {self.num_workers} nodes, by rank; got {len(self.ids)}")
        if twice := [node for node in self.ids if self.ids.count(node) > 1]:
            raise ValueError(f"nodes must list every id once; got {twice[0]} twice")

    def may_hold(self, rank: int, node_id: int) -> bool:
        """Return whether a node may have a rank."""
        return node_id == self.ids[rank] or node_id in self.ids[self.num_workers :]


class Identities:
    """Decides who may have a rank, and remembers who had it.

    Flower lets a SuperNode act only under the node id of its key, and tells the key of every node. A rank belongs to
    the key that had it first. Another key gets it only if Flower registered it after the roster was complete: with
    SuperNode authentication only an operator can do that, without it every SuperNode registers a new key at its start.

    Parameters
    ----------
    grid : Grid
        Flower's grid; in a simulation it knows no keys.
    nodes : Nodes, optional
        Decides instead of keys.
    """

    def __init__(self, grid: Grid, nodes: Nodes | None = None) -> None:
        self._grid = grid
        self._nodes = nodes
        self._known: dict[int, NodeInfo] = {}
        self._keys: dict[int, bytes] = {}
        self._complete_since: datetime | None = None

    def by_seniority(self, node_ids: Iterable[int]) -> list[int]:
        """Return node ids in the order in which nodes with the same claim have a right to it.

        This is the order of ``nodes``, or else of registration; of nodes of which Flower tells no time, that of ids.
        """
        if self._nodes is not None:
            places = {node_id: place for place, node_id in enumerate(self._nodes.ids)}
            return sorted(node_ids, key=lambda node: (places.get(node, len(places)), node))
        return sorted(node_ids, key=lambda node: (self._registered(node) or _LONG_AGO, node))

    def listed_rank(self, node_id: int) -> int | None:
        """Return the rank that ``nodes`` gives to a node; None if it gives none, or there is no list."""
        own = () if self._nodes is None else self._nodes.ids[: self._nodes.num_workers]
        return own.index(node_id) if node_id in own else None

    def objection(self, rank: int, node_id: int) -> str | None:
        """Return why a node must not have a rank, or None."""
        if self._nodes is not None:
            if self._nodes.may_hold(rank, node_id):
                return None
            return f"nodes gives rank {rank} to node {self._nodes.ids[rank]}"
        own, key = self._key(node_id), self._keys.get(rank)
        if not own or not key or own == key or self._is_new(node_id):
            return None
        return f"rank {rank} belongs to another key"

    def bind(self, rank: int, node_id: int) -> None:
        """Note that a rank belongs to the key of a node."""
        self._keys[rank] = self._key(node_id)

    def complete(self) -> None:
        """Note that the roster is complete: nodes registered from now on are new."""
        self._complete_since = datetime.now(UTC)

    def _is_new(self, node_id: int) -> bool:
        registered = self._registered(node_id)
        return registered is not None and self._complete_since is not None and registered > self._complete_since

    def _key(self, node_id: int) -> bytes:
        info = self._info(node_id)
        return info.public_key if info is not None else b""

    def _registered(self, node_id: int) -> datetime | None:
        info = self._info(node_id)
        return datetime.fromisoformat(info.registered_at) if info is not None and info.registered_at else None

    def _info(self, node_id: int) -> NodeInfo | None:
        """Return what Flower tells of a node (which does not change); None if it does not know the node."""
        if node_id not in self._known:
            self._known |= {info.node_id: info for info in _get_nodes(self._grid)}
        return self._known.get(node_id)


def _get_nodes(grid: Grid) -> Iterable[NodeInfo]:
    # Grids that were written before Flower 1.42, and those of tests, need not have it.
    get_nodes = getattr(grid, "get_nodes", None)
    return get_nodes() if get_nodes is not None else ()
