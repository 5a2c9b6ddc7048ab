"""Replies that are announced before they are complete: Flower's own grid, over a client that stands for a SuperLink."""

import threading
from collections.abc import Iterator
from functools import partial
from time import monotonic, sleep
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from echelon.server.transport import ThreadedTransport, Transport, _Answering, make_transport
from tests import tiny
from tests.processes import wait_for


class SuperLink:
    """Announces each reply once; delivers the objects of those that are uploaded."""

    def __init__(self) -> None:
        self.announced: dict[str, tuple[Any, Any, dict[str, bytes]]] = {}
        self.missing: set[str] = set()
        self.lost: set[str] = set()
        self.asked: list[list[str]] = []
        self.confirmed: list[str] = []
        self.failure: Exception | None = None

    def announce(self, number: int, *, uploaded: bool = True) -> str:
        """Announce the reply to message ``number``; return that message's id."""
        message = Message(RecordDict({"config": ConfigRecord({"number": number})}), 7, "train")
        message.metadata.__dict__["_message_id"] = f"message-{number}"
        reply = Message(RecordDict({"config": ConfigRecord({"number": number})}), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = {name: thing.deflate() for name, thing in get_all_nested_objects(reply).items()}
        empty = message_to_proto(reply)
        empty.ClearField("content")
        self.announced[f"message-{number}"] = (empty, get_object_tree(reply), objects)
        if not uploaded:
            self.missing |= objects.keys()
        return f"message-{number}"

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802
        if self.failure is not None:
            raise self.failure
        self.asked.append(list(request.message_ids))
        found = [self.announced[name] for name in request.message_ids if name in self.announced]
        self.objects = {**getattr(self, "objects", {}), **{k: v for _, _, held in found for k, v in held.items()}}
        for name in request.message_ids:
            self.announced.pop(name, None)
        return PullAppMessagesResponse(
            messages_list=[empty for empty, _, _ in found], message_object_trees=[tree for _, tree, _ in found]
        )

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        name = request.object_id
        if name in self.lost:
            return PullObjectResponse(object_found=False)
        if name in self.missing:
            return PullObjectResponse(object_found=True, object_available=False)
        return PullObjectResponse(object_found=True, object_available=True, object_content=self.objects[name])

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        self.confirmed.append(request.message_object_id)

    def close(self) -> None:
        pass


@pytest.fixture
def superlink() -> SuperLink:
    tiny.grid(1)  # makes this process a server
    return SuperLink()


@pytest.fixture
def deployed(superlink: SuperLink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    monkeypatch.setattr(
        pull_objects, "__kwdefaults__", {**(pull_objects.__kwdefaults__ or {}), "initial_backoff": 0.01}
    )
    grid = HttpGrid(token="token")
    grid.set_run(Run.create_empty(1))
    grid._client = superlink  # type: ignore[assignment]
    made = make_transport(grid)
    yield made
    made.close()


def collect(deployed: Transport, ids: list[str], count: int) -> list[Message]:
    """Poll until so many replies are there."""
    found: list[Message] = []
    end = monotonic() + 20
    while len(found) < count and monotonic() < end:
        found += deployed.pull([name for name in ids if name not in {r.metadata.reply_to_message_id for r in found}])
        sleep(0.005)
    return found


def numbers(replies: list[Message]) -> list[Any]:
    return sorted(reply.content.config_records["config"]["number"] for reply in replies)


def test_a_reply_that_is_not_complete_delays_no_other(deployed: Transport, superlink: SuperLink) -> None:
    """Flower's own pull would return nothing until the first one's session has expired."""
    assert isinstance(deployed, ThreadedTransport)
    ids = [superlink.announce(1, uploaded=False), superlink.announce(2), superlink.announce(3)]
    assert numbers(collect(deployed, ids, 2)) == [2, 3]
    assert deployed.pull(ids[:1]) == []
    assert superlink.asked[0] == ids
    assert not any(ids[0] in asked for asked in superlink.asked[1:]), "the SuperLink would not deliver it again"

    superlink.missing.clear()
    assert numbers(collect(deployed, ids[:1], 1)) == [1]
    assert len(superlink.confirmed) == 3


def test_one_that_never_comes_is_given_up_by_name(deployed: Transport, superlink: SuperLink) -> None:
    ids = [superlink.announce(1, uploaded=False), superlink.announce(2)]
    assert numbers(collect(deployed, ids, 1)) == [2]
    superlink.lost, superlink.missing = superlink.missing, set()
    (given_up,) = collect(deployed, ids[:1], 1)
    assert given_up.has_error()
    assert given_up.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert given_up.metadata.reply_to_message_id == ids[0]


def test_a_reply_to_a_forgotten_message_is_not_delivered(deployed: Transport, superlink: SuperLink) -> None:
    ids = [superlink.announce(1, uploaded=False)]
    deployed.pull(ids)
    superlink.missing.clear()
    other = [superlink.announce(2)]
    found = []
    while len(superlink.confirmed) < 2:
        found += deployed.pull(other)
    assert numbers(found + deployed.pull(other)) == [2]


def test_an_error_of_the_superlink_is_raised(deployed: Transport, superlink: SuperLink) -> None:
    superlink.failure = ConnectionRefusedError("it is gone")
    with pytest.raises(ConnectionRefusedError):
        deployed.pull(["message-1"])


def test_an_error_in_a_thread_is_raised(
    deployed: Transport, superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: Any) -> None:
        raise ConnectionRefusedError("it is gone")

    monkeypatch.setattr(superlink, "PullObject", refuse)
    with pytest.raises(ConnectionRefusedError):
        collect(deployed, [superlink.announce(1)], 1)


def test_threads_end_when_the_run_does(deployed: Transport, superlink: SuperLink) -> None:
    before = set(threading.enumerate())
    deployed.pull([superlink.announce(1, uploaded=False)])
    started = set(threading.enumerate()) - before
    deployed.close()
    for thread in started:
        wait_for(partial(getattr, thread, "ident"), 20)  # it is listed before it runs
        thread.join(20)
    assert not any(thread.is_alive() for thread in started)


def test_an_empty_pull_asks_for_nothing(deployed: Transport, superlink: SuperLink) -> None:
    assert deployed.pull([]) == []
    assert superlink.asked == []


def test_another_flower_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpGrid, "pull_messages", lambda self, ids: [])
    assert type(make_transport(HttpGrid(token="token"))) is Transport
    assert type(make_transport(tiny.grid(1))) is Transport


class Uploading:
    """Has an object from the third request on."""

    def __init__(self, *, known: bool = True) -> None:
        self.requests, self.known = 0, known

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        self.requests += 1
        return PullObjectResponse(object_found=self.known, object_available=self.requests > 2)


def test_an_object_that_is_under_way_is_asked_for_at_once() -> None:
    client = Uploading()
    answering = _Answering(client, PullAppMessagesResponse(), threading.Event(), threading.BoundedSemaphore(1))
    assert answering.PullObject(None).object_available
    assert client.requests == 3


def test_an_object_that_does_not_exist_is_asked_for_once() -> None:
    client = Uploading(known=False)
    answering = _Answering(client, PullAppMessagesResponse(), threading.Event(), threading.BoundedSemaphore(1))
    assert not answering.PullObject(None).object_found
    assert client.requests == 1
