"""Grids that behave as real ones may: replies in any order, late replies, nodes that go and come."""

from collections.abc import Callable, Iterable
from datetime import datetime
from threading import Event
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from echelon.engines.inline import InlineGrid


class ShufflingGrid(InlineGrid):
    """Hands replies over in random order, and only some of them at a time."""

    def __init__(self, client_app: ClientApp, num_nodes: int, seed: int) -> None:
        super().__init__(client_app, num_nodes)
        self._rng = np.random.default_rng(seed)

    def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
        ids = self._rng.permutation(list(message_ids)).tolist()
        return super().replies_to(ids[: len(ids) // 2 + 1])


class LateGrid(InlineGrid):
    """Holds back the replies that ``hold`` picks until they are released; notes what was pushed to whom.

    Nodes can be taken away and brought back under another id.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int, hold: Callable[[int, int, str], bool]) -> None:
        super().__init__(client_app, num_nodes)
        self._hold = hold
        self._held: set[str] = set()
        self._gone: dict[int, Any] = {}
        self.asked: list[tuple[str, int, int]] = []
        self.keys: dict[int, tuple[bytes, datetime]] = {}
        self.most_in_flight = 0

    @property
    def ranks(self) -> dict[int, int]:
        """Rank of every node id."""
        return {node: int(context.node_config.get("partition-id", -1)) for node, context in self._contexts.items()}

    def get_nodes(self) -> list[NodeInfo]:
        """Return what is known of every node: of one without an entry in ``keys``, only its id."""
        nodes = [NodeInfo(node_id=node) for node in self.get_node_ids()]
        for info in nodes:
            if info.node_id in self.keys:
                info.public_key, registered = self.keys[info.node_id]
                info.registered_at = registered.isoformat()
        return nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in messages:
            kind = message.metadata.message_type
            rank = self.ranks[message.metadata.dst_node_id]
            round_number = int(message.metadata.group_id or 0) if kind == "train" else 0
            ids = list(super().push_messages([message]))
            if self._hold(rank, round_number, kind):
                self._held.update(ids)
            self.asked.append((kind, rank, round_number))
            pushed.extend(ids)
        return pushed

    def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
        ids = list(message_ids)
        self.most_in_flight = max(self.most_in_flight, len(ids))
        return super().replies_to([i for i in ids if i not in self._held])

    def release(self) -> None:
        """Let all that was held back arrive."""
        self._held.clear()

    def take_away(self, rank: int) -> None:
        """Disconnect a worker's node."""
        node = next(node for node, its_rank in self.ranks.items() if its_rank == rank)
        self._gone[rank] = self._contexts.pop(node)

    def bring_back(self, rank: int, node_id: int) -> None:
        """Connect a worker that was taken away, under a new node id."""
        context = self._gone.pop(rank)
        context.node_id = node_id
        self._contexts[node_id] = context

    def connect(self, node_id: int, **node_config: int | str) -> None:
        """Connect another node."""
        context = next(iter(self._contexts.values()))
        self._contexts[node_id] = type(context)(
            run_id=context.run_id,
            node_id=node_id,
            node_config=dict(node_config),
            state=type(context.state)(),
            run_config={},
        )


class Clock(Event):
    """Time that passes only where a run waits: it is the run's ``stop`` event and, patched in, its ``time``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "the run waits for ever"
        self.now += max(timeout, 1e-3)
        return self.is_set()


class DelayedGrid(LateGrid):
    """Delivers every reply ``delay(rank, round, kind)`` seconds after its message, by a clock that a test controls."""

    def __init__(
        self, client_app: ClientApp, num_nodes: int, clock: Clock, delay: Callable[[int, int, str], float]
    ) -> None:
        super().__init__(client_app, num_nodes, lambda *message: False)
        self.clock = clock
        self.delay = delay
        self._due: dict[str, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in messages:
            rank, kind = self.ranks[message.metadata.dst_node_id], message.metadata.message_type
            round_number = int(message.metadata.group_id or 0) if kind == "train" else 0
            ids = list(super().push_messages([message]))
            self._due |= dict.fromkeys(ids, self.clock.now + self.delay(rank, round_number, kind))
            pushed.extend(ids)
        return pushed

    def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
        return super().replies_to([i for i in message_ids if self._due[i] <= self.clock.now])
