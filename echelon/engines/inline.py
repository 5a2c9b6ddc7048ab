"""The in-process engine: a Flower Grid that runs an unmodified ClientApp synchronously, in message order.

Deterministic and without start-up cost, for tests and small runs.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from echelon.persistent import signals

_RUN_ID = 1


class InlineGrid(Grid):
    """A Grid with ``num_nodes`` nodes in this process.

    Parameters
    ----------
    client_app : ClientApp
        Runs on every node. Train messages to one that has a method ``train_batch`` (see
        :class:`clients.app.WorkerApp`) are answered together when a reply is asked for.
    num_nodes : int
        Number of nodes; node ``i`` has ``partition-id`` i in its node configuration and an unrelated node id.
    run_config : mapping, optional
        Run configuration of the contexts.

    Raises
    ------
    ValueError
        If ``num_nodes`` is less than 1.
    """

    def __init__(
        self, client_app: ClientApp, num_nodes: int, run_config: Mapping[str, bool | int | float | str] | None = None
    ) -> None:
        if num_nodes < 1:
            raise ValueError(f"num_nodes must be at least 1; got {num_nodes}")
        self._client_app = client_app
        self._ids = count(1)
        self._replies: dict[str, Message] = {}
        self._queue: list[Message] = []
        self._requests: deque[tuple[RecordDict, Context]] = deque()
        # Descending ids, so that code that confuses the order of node ids with that of ranks fails.
        node_ids = [1000 + num_nodes - rank for rank in range(num_nodes)]
        self._contexts = {
            node_id: Context(
                run_id=_RUN_ID,
                node_id=node_id,
                node_config={"partition-id": rank, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for rank, node_id in enumerate(node_ids)
        }
        self.set_run(Run.create_empty(_RUN_ID))

    def set_run(self, run: Run) -> None:
        """Set the run and register this process as its server, which Flower's messages require."""
        self._run = run
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run.run_id, 1, SUPERLINK_NODE_ID

    @property
    def run(self) -> Run:
        """The run of this grid."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message (Flower deprecates this in favour of ``Message(...)``)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the ClientApp on each message and keep the replies; return the messages' ids."""
        return [self._run_client(message) for message in messages]

    def pull_messages(
        self, message_ids: Iterable[str] | None = None, *, reply_to_message_ids: Iterable[str] | None = None
    ) -> Iterable[Message]:
        """Return the replies to the given messages, once; Flower 1.43 calls the argument ``reply_to_message_ids``."""
        return self.replies_to([*(message_ids or ()), *(reply_to_message_ids or ())])

    def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to the given messages, once; a subclass may delay or drop some."""
        self._answer_queue()
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run the ClientApp on each message and return the replies."""
        return self.pull_messages(self.push_messages(messages))

    def _run_client(self, message: Message) -> str:
        message_id = f"message-{next(self._ids)}"
        message.metadata.__dict__["_message_id"] = message_id
        context = self._contexts.get(message.metadata.dst_node_id)
        if context is None:
            self._keep(Message(Error(ErrorCode.NODE_UNAVAILABLE, "no such node"), reply_to=message))
        elif self._train_batch and message.metadata.message_type == MessageType.TRAIN:
            self._queue.append(message)
            self._requests.append((message.content, context))
            message.content = RecordDict()  # whoever answers takes the content off, so that it is not kept for long
        else:
            self._keep(self._reply(message, context))
        return message_id

    @property
    def _train_batch(self) -> Callable[..., Iterator[RecordDict | Exception]] | None:
        return getattr(self._client_app, "train_batch", None)

    def _answer_queue(self) -> None:
        """Let the ClientApp answer the train messages that it takes together."""
        if not self._queue or self._train_batch is None:
            return
        messages, self._queue = self._queue, []
        with signals.interruptible():
            for message, reply in zip(messages, self._train_batch(self._requests), strict=True):
                if isinstance(reply, Exception):
                    self._keep(_error(reply, message))
                else:
                    self._keep(Message(reply, reply_to=message))

    def _keep(self, reply: Message) -> None:
        message_id = reply.metadata.reply_to_message_id
        reply.metadata.__dict__["_message_id"] = f"reply-to-{message_id}"
        reply.metadata.delivered_at = str(time.time())
        self._replies[message_id] = reply

    def _reply(self, message: Message, context: Context) -> Message:
        try:
            with signals.interruptible():  # training may take longer than a process that is told to stop has
                return self._client_app(message, context)
        except Exception as error:  # as in Flower's engines, a client error becomes an error reply
            return _error(error, message)


def _error(error: Exception, message: Message) -> Message:
    reason = f"{type(error).__name__}: {error}"
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
