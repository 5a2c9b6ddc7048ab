"""How replies are fetched: in a deployment each in a thread of its own, so that no reply waits for another.

A SuperNode announces a reply before it uploads the reply's objects. If it dies in between, Flower's
``HttpGrid.pull_messages`` asks for the objects until the upload session expires (180 s), and with it wait all replies
that the SuperLink delivered in the same answer and will not deliver again. Here Flower's own method runs once per
announced reply, in a thread, with an answer that holds this reply alone. That relies on private names of Flower 1.42;
where they differ, replies are pulled as Flower does.
"""

import copy
import sys
from collections.abc import Collection
from logging import WARNING
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Event, Thread
from typing import Any

from flwr.app import Message
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.serverapp import Grid
from flwr.supercore import log

# Flower's client has a hundred connections; those of messages and nodes come on top.
_REQUESTS_AT_ONCE = 32
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.02, 1.0
_NEEDED = {"_runtime_client", "PullMessages", "PullObject", "messages_list", "message_object_trees"}


class Transport:
    """Pulls replies as the grid does.

    Parameters
    ----------
    grid : Grid
        Flower's grid.

    Attributes
    ----------
    shortest_poll_seconds : float
        How long to wait between two polls at least.
    """

    shortest_poll_seconds = 0.002

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def pull(self, message_ids: Collection[str]) -> list[Message]:
        """Return the replies to these messages that have come in, each once."""
        # By position: Flower 1.43 renames the argument. Never with an empty list: Flower may read it as "all messages".
        return list(self._grid.pull_messages(list(message_ids))) if message_ids else []

    def close(self) -> None:
        """End what is still under way."""


class ThreadedTransport(Transport):
    """Pulls every reply that a SuperLink announces in a thread of its own; it is delivered when it is complete.

    A reply whose objects do not come is delivered as Flower's error MESSAGE_UNAVAILABLE once the session has expired.

    Parameters
    ----------
    grid : HttpGrid
        Of a deployment.
    """

    shortest_poll_seconds = 0.03  # a poll costs a SuperLink 4 to 10 ms of CPU time

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._under_way: set[str] = set()
        self._done: SimpleQueue[tuple[str, list[Message] | BaseException]] = SimpleQueue()
        self._closed = Event()
        self._slots = BoundedSemaphore(_REQUESTS_AT_ONCE)

    def pull(self, message_ids: Collection[str]) -> list[Message]:
        """Return the replies to these messages that are complete, each once; raise what a thread has raised."""
        wanted = [message_id for message_id in message_ids if message_id not in self._under_way]
        if wanted:
            for answer in self._announced(wanted):
                message_id = answer.messages_list[0].metadata.reply_to_message_id
                self._under_way.add(message_id)
                Thread(target=self._fetch, args=(message_id, answer), daemon=True).start()
        replies: list[Message] = []
        while (outcome := self._next()) is not None:
            message_id, fetched = outcome
            self._under_way.discard(message_id)
            if isinstance(fetched, BaseException):
                raise fetched
            if not fetched:
                log(WARNING, "The reply to message %s could not be read", message_id)
            if message_id in message_ids:  # its node may have been forgotten meanwhile
                replies += fetched
        return replies

    def close(self) -> None:
        """Let the threads end: Python waits at its exit for the requests that Flower makes in them."""
        self._closed.set()

    def _announced(self, message_ids: list[str]) -> list[PullAppMessagesResponse]:
        """Ask the SuperLink once; return an answer for each announced reply."""
        client = _Announcing(_client(self._grid))
        _pull_through(self._grid, client, message_ids)
        found = client.answer
        pairs = zip(found.messages_list, found.message_object_trees, strict=True)
        return [PullAppMessagesResponse(messages_list=[reply], message_object_trees=[tree]) for reply, tree in pairs]

    def _fetch(self, message_id: str, answer: PullAppMessagesResponse) -> None:
        client = _Answering(_client(self._grid), answer, self._closed, self._slots)
        try:
            self._done.put((message_id, _pull_through(self._grid, client, [message_id])))
        except BaseException as error:  # raised where replies are pulled
            self._done.put((message_id, error))

    def _next(self) -> tuple[str, list[Message] | BaseException] | None:
        try:
            return self._done.get_nowait()
        except Empty:
            return None


def is_deployed(grid: Grid) -> bool:
    """Return whether messages go to a SuperLink."""
    # Importing the module takes a second, and whoever has made such a grid has imported it.
    module = sys.modules.get("flwr.superlink.grid")
    return module is not None and isinstance(grid, module.HttpGrid)


def make_transport(grid: Grid) -> Transport:
    """Return the transport for a grid."""
    if not is_deployed(grid):
        return Transport(grid)
    code = getattr(type(grid).pull_messages, "__code__", None)
    client = getattr(type(grid), "_runtime_client", None)
    if code is None or not set(code.co_names) >= _NEEDED or not isinstance(client, property):
        log(WARNING, "This version of Flower pulls replies in another way: one that is incomplete delays all others")
        return Transport(grid)
    return ThreadedTransport(grid)


class _Client:
    """Flower's client of the SuperLink, but for what a subclass replaces."""

    def __init__(self, client: Any) -> None:
        self._inner = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Announcing(_Client):
    """Keeps what the SuperLink answers, and tells Flower that there is nothing to fetch."""

    answer = PullAppMessagesResponse()

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802
        """Ask for replies."""
        self.answer = self._inner.PullMessages(request)
        return PullAppMessagesResponse()


class _Answering(_Client):
    """Gives an answer that is there already; what belongs to it is requested until the transport is closed."""

    def __init__(self, client: Any, answer: PullAppMessagesResponse, closed: Event, slots: BoundedSemaphore) -> None:
        super().__init__(client)
        self._answer, self._closed, self._slots = answer, closed, slots

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802
        """Return the answer."""
        return self._answer

    def PullObject(self, request: Any) -> Any:  # noqa: N802
        """Request an object, again and again for a few seconds if it is announced, but not there yet."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            if self._closed.is_set():
                raise ConnectionAbortedError("the run has ended")
            with self._slots:
                response = self._inner.PullObject(request)
            if response.object_available or not response.object_found or pause > _LONGEST_RETRY_SECONDS:
                return response  # Flower itself would wait 1 s first
            self._closed.wait(pause)
            pause *= 1.5


def _client(grid: Any) -> Any:
    return grid._runtime_client


def _pull_through(grid: Any, client: _Client, message_ids: list[str]) -> list[Message]:
    """Pull by Flower's own method, through another client."""
    there = copy.copy(grid)
    there._client = client
    return list(there.pull_messages(message_ids))
