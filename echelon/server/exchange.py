"""One round of messages: push to every worker, poll for replies, stop at the deadline.

Flower's ``send_and_receive`` sleeps 0.1 s (simulation) to 3 s (deployment) between polls and waits for every reply;
this loop does neither. There is no way to cancel a message, so a late reply is taken from the grid in a later round. A
reply that Flower cannot read is an error up to Flower 1.42 and does not arrive at all from 1.43 on; the deadline covers
both.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from threading import Event

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.superlink.grid import HttpGrid

from echelon.protocol.packing import pack

_SHORTEST_POLL_SECONDS = 0.002
_LONGEST_POLL_SECONDS = 0.1


class RunStoppedError(RuntimeError):
    """The run was asked to stop."""


class Exchange:
    """Pushes messages and collects replies; remembers what is still outstanding at each node.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    window : int, optional
        Messages in flight at a time. Flower's simulation engine scans nodes times messages: with hundreds of nodes a
        window of two to four times its actors is much faster. By default everything is pushed at once.
    stop : threading.Event, optional
        Set it, from another thread or a signal handler, to end the run.
    """

    def __init__(self, grid: Grid, window: int | None = None, stop: Event | None = None) -> None:
        self.grid = grid
        self.window = window
        self.stop = stop or Event()
        self._outstanding: dict[str, int] = {}
        self._recipients: dict[str, int] = {}
        self._pushed: dict[str, float] = {}
        self._current: set[str] = set()
        self._kept: list[Message] = []
        self._packing: set[int] = set()

    @property
    def busy_nodes(self) -> set[int]:
        """Nodes that have not answered an earlier message: at most one message may wait at a node."""
        return set(self._outstanding.values())

    def forget(self, node_id: int) -> None:
        """Stop waiting for a node that is gone."""
        self._outstanding = {mid: node for mid, node in self._outstanding.items() if node != node_id}

    def pack_for(self, node_id: int) -> None:
        """Send a node all arrays of a message in one, where they would be moved one by one: not in a simulation."""
        if isinstance(self.grid, HttpGrid):
            self._packing.add(node_id)

    def keep(self, reply: Message) -> None:
        """Put a late reply back until the next :meth:`collect_late`."""
        self._kept.append(reply)

    def collect_late(self) -> list[Message]:
        """Return replies to messages of earlier rounds that have come in by now; a new round begins."""
        kept, self._kept = self._kept, []
        unread = {reply.metadata.reply_to_message_id for reply in kept} | self._outstanding.keys()
        self._recipients = {message_id: self._recipients[message_id] for message_id in unread}
        self._pushed = {message_id: self._pushed[message_id] for message_id in unread}
        self._current = set()
        return kept + self._pull()

    def run(
        self,
        messages: Iterable[Message],
        seconds: float,
        complete: Callable[[], bool] | None = None,
        patience: float = 0.0,
    ) -> Iterator[Message]:
        """Push messages and yield their replies as they come.

        Parameters
        ----------
        messages : iterable of Message
            One per node; taken as they can be sent.
        seconds : float
            Real time after which the rest is given up (it stays outstanding); may be infinite.
        complete : callable, optional
            Called after every poll, when its replies have been processed; True ends the exchange.
        patience : float
            Real time to wait, beyond ``seconds`` if need be, for the first reply, if all workers are slower
            than expected.

        Yields
        ------
        Message
            Replies to these messages, and late ones to earlier messages (see :meth:`is_late`).

        Raises
        ------
        RunStoppedError
            When ``stop`` is set.
        """
        waiting = iter(messages)
        all_sent = False
        self._current = set()
        heard = False
        began = time.monotonic()
        pause = _SHORTEST_POLL_SECONDS
        while True:
            if self.stop.is_set():
                raise RunStoppedError("the run was stopped")
            while not all_sent and (self.window is None or self._in_flight() < self.window):
                message = next(waiting, None)
                all_sent = message is None
                if message is not None:
                    self._push(message)
            replies = self._pull()
            yield from replies
            heard = heard or bool(replies)
            end = began + (seconds if heard else max(seconds, patience))
            if all_sent and not self._in_flight() and (heard or not patience or not self._outstanding):
                return
            if time.monotonic() >= end or (complete is not None and complete()):
                return
            pause = _SHORTEST_POLL_SECONDS if replies else min(1.5 * pause, _LONGEST_POLL_SECONDS)
            self.stop.wait(min(pause, max(end - time.monotonic(), 0.0)))

    def next_replies(self, messages: Iterable[Message], seconds: float) -> list[Message]:
        """Push messages and return the next replies, to these or to earlier ones; none if ``seconds`` bring none.

        Raises
        ------
        RunStoppedError
            When ``stop`` is set.
        """
        replies = self.collect_late()
        for message in messages:
            self._push(message)
        end = time.monotonic() + seconds
        pause = _SHORTEST_POLL_SECONDS
        while not self.stop.is_set():
            replies = replies or self._pull()
            if replies or not self._outstanding or time.monotonic() >= end:
                return replies
            pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
            self.stop.wait(min(pause, max(end - time.monotonic(), 0.0)))
        raise RunStoppedError("the run was stopped")

    def is_late(self, reply: Message) -> bool:
        """Return whether a reply answers a message of an earlier exchange."""
        message_id = reply.metadata.reply_to_message_id
        return message_id in self._recipients and message_id not in self._current

    def node_of(self, reply: Message) -> int:
        """Return the node that a reply speaks for (of some errors the SuperLink is the sender)."""
        return self._recipients.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)

    def seconds_since_push(self, reply: Message) -> float:
        """Return the real time since the message of a reply was pushed; infinite if it was not pushed here."""
        return time.monotonic() - self._pushed.get(reply.metadata.reply_to_message_id, -math.inf)

    def _in_flight(self) -> int:
        """Return how many messages of the current exchange wait for a reply; forgotten nodes do not count."""
        return len(self._current & self._outstanding.keys())

    def _push(self, message: Message) -> None:
        """Push a message, unless Flower does not know its node any more (it returns no id then, or an empty one)."""
        if message.metadata.dst_node_id in self._packing:
            message.content = pack(message.content)
        now = time.monotonic()
        for message_id in filter(None, self.grid.push_messages([message])):
            self._pushed[message_id] = now
            self._outstanding[message_id] = self._recipients[message_id] = message.metadata.dst_node_id
            self._current.add(message_id)

    def _pull(self) -> list[Message]:
        # By position: Flower 1.43 renames the argument. Never with an empty list: Flower may read it as "all messages".
        replies = list(self.grid.pull_messages(list(self._outstanding))) if self._outstanding else []
        for reply in replies:
            self._outstanding.pop(reply.metadata.reply_to_message_id, None)
        return replies
