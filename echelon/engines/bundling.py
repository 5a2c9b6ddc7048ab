"""A Grid that sends train messages as one where a process trains several workers in one batched computation."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from logging import INFO
from typing import Literal
from uuid import uuid4

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore import log
from flwr.supercore.run import Run

from echelon.protocol.bundles import FEWEST_WORKERS, join, refusal, refused, split
from echelon.protocol.messages import num_bytes

_PULL_SECONDS = 0.1
_MOST_BYTES = 1 << 28
_IN_FLIGHT_PER_PROCESS = 4


class BundlingGrid(Grid):
    """Another grid, of simulated nodes, where train messages travel in bundles of equal size, one for each process.

    A bundle goes to the node of its first message. All messages wait here until replies are asked for; then, and as
    replies come in, four times as many as there are processes are in flight: Flower's simulation engine scans nodes
    times messages.

    Parameters
    ----------
    grid : Grid
        Flower's; its ClientApp must be one of :func:`clients.make_client_app` with ``batched``.
    processes : callable
        () -> number of processes that train; asked when messages are sent.
    batched : bool or "auto"
        ``auto`` sends messages one by one where no batched computation would be faster: models of more than 1 MB, or
        fewer than eight workers per process. False sends all of them one by one.
    """

    def __init__(self, grid: Grid, processes: Callable[[], int], batched: bool | Literal["auto"]) -> None:
        self._grid, self._processes, self._batched = grid, processes, batched
        self._pushed: list[Message] = []
        self._waiting: deque[list[Message]] = deque()
        self._sent: dict[str, list[Message]] = {}
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of this grid."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message (Flower deprecates this in favour of ``Message(...)``)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages, which are sent when replies are asked for; return their ids."""
        message_ids = []
        for message in messages:
            message_ids.append(str(uuid4()))
            message.metadata.__dict__["_message_id"] = message_ids[-1]
            self._pushed.append(message)
        return message_ids

    def pull_messages(
        self, message_ids: Iterable[str] | None = None, *, reply_to_message_ids: Iterable[str] | None = None
    ) -> Iterable[Message]:
        """Return the replies to the given messages that have come in, each once."""
        self._send()
        if self._sent:
            for reply in self._grid.pull_messages(list(self._sent)):
                self._receive(self._sent.pop(reply.metadata.reply_to_message_id), reply)
            self._send()
        wanted = [*(message_ids or ()), *(reply_to_message_ids or ())]
        return [self._replies.pop(message_id) for message_id in wanted if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the replies that come within ``timeout`` seconds."""
        missing, replies = set(self.push_messages(messages)), list[Message]()
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            found = list(self.pull_messages(missing))
            replies += found
            missing -= {reply.metadata.reply_to_message_id for reply in found}
            if not missing or time.monotonic() >= end:
                return replies
            time.sleep(_PULL_SECONDS)

    def _send(self) -> None:
        """Send what waits, as far as the limit on what is in flight allows."""
        if not self._pushed and not self._waiting:
            return
        processes = self._processes()
        self._waiting.extend(self._bundles(processes))
        while self._waiting and len(self._sent) < _IN_FLIGHT_PER_PROCESS * processes:
            self._send_bundle(self._waiting.popleft())

    def _bundles(self, processes: int) -> Iterator[list[Message]]:
        """Divide what has been pushed."""
        pushed, self._pushed = self._pushed, []
        joined = []
        for message in pushed:
            if self._may_join(message):
                joined.append(message)
            else:
                yield [message]
        if not joined:
            return
        fitting = max(_MOST_BYTES // max(num_bytes(joined[0].content), 1), 1)
        size = math.ceil(len(joined) / max(processes, math.ceil(len(joined) / fitting)))
        if self._batched == "auto" and size < FEWEST_WORKERS:
            size = 1
        for start in range(0, len(joined), size):
            yield joined[start : start + size]

    def _may_join(self, message: Message) -> bool:
        if not self._batched or message.metadata.message_type != MessageType.TRAIN:
            return False
        reason = refusal(message, auto=self._batched == "auto")
        self._refuse(reason)
        return not reason

    def _refuse(self, reason: str) -> None:
        """Send messages one by one from now on, if there is a reason, and say it."""
        if reason and self._batched:
            self._batched = False
            log(INFO, "Workers are trained one after the other: %s", reason)

    def _send_bundle(self, messages: list[Message]) -> None:
        told = messages[0].metadata
        content = join([message.content for message in messages]) if len(messages) > 1 else messages[0].content
        carrier = Message(content, told.dst_node_id, told.message_type, ttl=told.ttl, group_id=told.group_id)
        for message in messages:
            message.content = RecordDict()  # it is in the carrier, which is gone when it has been answered
        sent = list(filter(None, self._grid.push_messages([carrier])))
        if sent:
            self._sent[sent[0]] = messages
            return
        for message in messages:
            self._keep(message, Error(ErrorCode.NODE_UNAVAILABLE, "no such node"))

    def _receive(self, messages: list[Message], reply: Message) -> None:
        """Keep the replies to the messages of a bundle; what has happened to it has happened to each of them."""
        if reply.has_error():
            for message in messages:
                self._keep(message, reply.error)
        elif len(messages) == 1:
            self._keep(messages[0], reply.content)
        else:
            self._refuse(refused(reply.content))
            for message, content in zip(messages, split(reply.content), strict=True):
                if isinstance(content, str):
                    self._keep(message, Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, content))
                else:
                    self._keep(message, content)

    def _keep(self, message: Message, answer: RecordDict | Error) -> None:
        reply = Message(answer, reply_to=message)
        message_id = message.metadata.message_id
        reply.metadata.__dict__["_message_id"] = f"reply-to-{message_id}"
        reply.metadata.delivered_at = str(time.time())
        self._replies[message_id] = reply
