"""One round of messages: push to every worker, poll for replies, stop at the deadline.

Flower's ``send_and_receive`` sleeps 0.1 s (simulation) to 3 s (deployment) between polls and waits for every reply;
this loop does neither. There is no way to cancel a message, so a late reply is taken from the grid in a later round. A
reply that Flower cannot read is an error up to Flower 1.42 and does not arrive at all from 1.43 on; the deadline covers
both.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from logging import WARNING
from threading import Event

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore import log

from echelon.protocol.packing import pack
from echelon.server.transport import is_deployed, make_transport

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

    Attributes
    ----------
    in_rows : bool
        Whether models travel as one array, to the nodes that take them so. Flower's own loop carries named arrays:
        wrappers of a strategy look at them.
    """

    def __init__(self, grid: Grid, window: int | None = None, stop: Event | None = None) -> None:
        self.grid = grid
        self._transport = make_transport(grid)
        self.window = window
        self.stop = stop or Event()
        self._outstanding: dict[str, int] = {}
        self._recipients: dict[str, int] = {}
        self._sent: dict[str, float] = {}
        self._types: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._polled = 0.0
        self._current: set[str] = set()
        self._kept: list[Message] = []
        self._packing: set[int] = set()
        self.in_rows = False
        self._unasked = 0

    @property
    def busy_nodes(self) -> set[int]:
        """Nodes that have not answered an earlier message: at most one message may wait at a node."""
        return set(self._outstanding.values())

    def forget(self, node_id: int) -> None:
        """Stop waiting for a node that is gone."""
        self._outstanding = {mid: node for mid, node in self._outstanding.items() if node != node_id}

    def close(self) -> None:
        """End what is under way; nothing is pulled any more."""
        self._transport.close()

    def pack_for(self, node_id: int) -> None:
        """Send a node all arrays of a message in one, where they would be moved one by one: not in a simulation."""
        self._packing.add(node_id)

    def takes_rows(self, node_id: int) -> bool:
        """Return whether a node gets, and sends, a model as one array: not where others look at the messages."""
        return self.in_rows and node_id in self._packing

    def keep(self, reply: Message) -> None:
        """Put a late reply back until the next :meth:`collect_late`."""
        self._kept.append(reply)

    def collect_late(self) -> list[Message]:
        """Return replies to messages of earlier rounds that have come in by now; a new round begins."""
        kept, self._kept = self._kept, []
        unread = {reply.metadata.reply_to_message_id for reply in kept} | self._outstanding.keys()
        self._recipients = {message_id: self._recipients[message_id] for message_id in unread}
        self._sent = {message_id: self._sent[message_id] for message_id in unread & self._sent.keys()}
        self._types = {message_id: self._types[message_id] for message_id in unread & self._types.keys()}
        self._seconds = {message_id: self._seconds[message_id] for message_id in unread & self._seconds.keys()}
        self._current = set()
        return kept + self._pull()

    def send(self, messages: Iterable[Message]) -> None:
        """Push messages whose replies no exchange waits for: they come in with others, as late ones do."""
        for message in messages:
            self._push(message)

    def run(
        self,
        messages: Iterable[Message],
        seconds: float,
        complete: Callable[[], bool] | None = None,
        *,
        patience: float = 0.0,
        heard: Callable[[], bool] | None = None,
        grace: float = 0.0,
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
            Real time to wait, beyond ``seconds`` if need be, for the first reply that counts, if all workers are
            slower than expected.
        heard : callable, optional
            Returns whether a reply that counts has been processed; by default, whether any has arrived. A late reply
            to an earlier exchange, or a rejected one, need not count.
        grace : float
            Real time to wait for further replies after a first one that came later than ``seconds``.

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
        self._current = set()
        wait = _Wait(time.monotonic(), seconds, patience, grace)
        all_sent = any_arrived = someone_free = False
        pause = self._transport.shortest_poll_seconds
        while True:
            if self.stop.is_set():
                raise RunStoppedError("the run was stopped")
            all_sent = all_sent or self._push_what_fits(waiting)
            replies = self._pull()
            someone_free = someone_free or any(self.is_late(reply) for reply in replies)
            yield from replies
            any_arrived = any_arrived or bool(replies)
            if any_arrived if heard is None else heard():
                wait.hear(time.monotonic())
            # If nobody of those asked is of use, a worker may become free that is busy with an earlier message.
            enough = wait.heard or not patience or not self._outstanding or someone_free
            if all_sent and not self._in_flight() and enough:
                return
            if time.monotonic() >= wait.end or (complete is not None and complete()):
                return
            pause = self._transport.shortest_poll_seconds if replies else min(1.5 * pause, _LONGEST_POLL_SECONDS)
            self.stop.wait(min(pause, max(wait.end - time.monotonic(), 0.0)))

    def next_replies(self, messages: Iterable[Message], seconds: float) -> list[Message]:
        """Push messages and return the next replies, to these or to earlier ones; none if ``seconds`` bring none.

        Raises
        ------
        RunStoppedError
            When ``stop`` is set.
        """
        replies = self.collect_late()
        for message in messages:
            self._current.update(self._push(message))
        end = time.monotonic() + seconds
        pause = self._transport.shortest_poll_seconds
        while not self.stop.is_set():
            replies = replies or self._pull()
            if replies or not self._outstanding or time.monotonic() >= end:
                return replies
            pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
            self.stop.wait(min(pause, max(end - time.monotonic(), 0.0)))
        raise RunStoppedError("the run was stopped")

    def take_unasked(self) -> int:
        """Return how many replies were refused, since the last call, because no message waited for them."""
        count, self._unasked = self._unasked, 0
        return count

    def seconds_of(self, reply: Message) -> float:
        """Return the real time from a message to its reply, at least: up to the latest poll that did not bring it."""
        return self._seconds.get(reply.metadata.reply_to_message_id, 0.0)

    def is_late(self, reply: Message) -> bool:
        """Return whether a reply answers a message of an earlier exchange."""
        message_id = reply.metadata.reply_to_message_id
        return message_id in self._recipients and message_id not in self._current

    def node_of(self, reply: Message) -> int:
        """Return the node that a reply speaks for (of some errors the SuperLink is the sender).

        What a reply says about its sender counts only where Flower's own loop, and not this exchange, carried it.
        """
        return self._recipients.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)

    def type_of(self, reply: Message) -> str:
        """Return the type of the message that a reply answers; errors that Flower itself makes have another one."""
        return self._types.get(reply.metadata.reply_to_message_id, reply.metadata.message_type)

    def seconds_since_push(self, reply: Message) -> float:
        """Return the real time since the message of a reply was pushed; infinite if it was not pushed here."""
        return time.monotonic() - self._sent.get(reply.metadata.reply_to_message_id, -math.inf)

    def _in_flight(self) -> int:
        """Return how many messages of the current exchange wait for a reply; forgotten nodes do not count."""
        return len(self._current & self._outstanding.keys())

    def _push_what_fits(self, waiting: Iterator[Message]) -> bool:
        """Push messages of the current exchange as the window allows; return whether there are no more."""
        while self.window is None or self._in_flight() < self.window:
            message = next(waiting, None)
            if message is None:
                return True
            self._current.update(self._push(message))
        return False

    def _push(self, message: Message) -> list[str]:
        """Push a message, unless Flower does not know its node any more (it returns no id then, or an empty one)."""
        if message.metadata.dst_node_id in self._packing and is_deployed(self.grid):
            message.content = pack(message.content)
        sent, node = time.monotonic(), message.metadata.dst_node_id
        message_ids = list(filter(None, self.grid.push_messages([message])))
        self._outstanding |= dict.fromkeys(message_ids, node)
        self._recipients |= dict.fromkeys(message_ids, node)
        self._sent |= dict.fromkeys(message_ids, sent)
        self._types |= dict.fromkeys(message_ids, message.metadata.message_type)
        return message_ids

    def _pull(self) -> list[Message]:
        replies = []
        for reply in self._transport.pull(self._outstanding.keys()):
            message_id = reply.metadata.reply_to_message_id
            if self._outstanding.pop(message_id, None) is not None:
                self._seconds[message_id] = max(self._polled - self._sent.get(message_id, self._polled), 0.0)
                replies.append(reply)
                continue
            # Both ids in a reply are the sender's own words: nothing that it says can tell whose reply this is.
            self._unasked += 1
            log(WARNING, "A reply is refused: it answers message %s, which does not wait for one", message_id[:16])
        self._polled = time.monotonic()
        return replies


@dataclass
class _Wait:
    """How long an exchange waits: ``seconds``, or else for a first reply and a grace for those that follow it."""

    began: float
    seconds: float
    patience: float
    grace: float
    heard: bool = False

    def hear(self, now: float) -> None:
        """Take note that a reply counts."""
        if not self.heard and now > self.began + self.seconds:
            self.seconds = min(now - self.began + self.grace, max(self.seconds, self.patience))
        self.heard = True

    @property
    def end(self) -> float:
        """Time at which the rest is given up."""
        return self.began + (self.seconds if self.heard else max(self.seconds, self.patience))
