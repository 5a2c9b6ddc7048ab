"""The loop of a node, over functions that stand for Flower's connection."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

from echelon.deployment import serving
from echelon.deployment.app_process import deflated
from echelon.deployment.apps import Answer
from echelon.deployment.serving import Connection, Node


class SuperLink:
    """Has messages for the node, and takes replies."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Message, ObjectTree]] = []
        self.objects: dict[str, bytes] = {}
        self.late: dict[str, int] = {}
        self.sent: list[Message] = []
        self.uploaded: list[str] = []
        self.log: list[str] = []
        self.ended = False

    def connection(self) -> Connection:
        """Return the functions that Flower's connection would have."""
        return Connection(
            7, self.receive, self.send, self.get_run, self.get_fab, self.pull_object, self.push_object, self.confirm
        )

    def ask(self, run_id: int = 3) -> str:
        content = RecordDict({"config": ConfigRecord({"number": len(self.log)})})
        message = Message(content, 7, "train", group_id="1")
        message.metadata.__dict__["_run_id"] = run_id
        tree, objects = deflated(message)
        self.objects |= objects
        self.waiting.append((message, tree))
        return message.metadata.message_id

    def receive(self) -> tuple[Message, ObjectTree] | None:
        if self.ended:
            raise RunNotRunningException
        return self.waiting.pop() if self.waiting else None

    def send(self, message: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        self.sent.append(message)
        return {tree.object_id}, "session"

    def get_run(self, run_id: int) -> Run:
        self.log.append(f"run {run_id}")
        run = Run.create_empty(run_id)
        run.fab_hash = "hash"
        return run

    def get_fab(self, fab_hash: str, run_id: int) -> Any:
        return SimpleNamespace(content=b"", hash_str=fab_hash, verifications={})

    def pull_object(self, run_id: int, object_id: str) -> bytes:
        if self.late.get(object_id, 0):
            self.late[object_id] -= 1
            raise ObjectUnavailableError(object_id)
        return self.objects[object_id]

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        self.uploaded.append(object_id)

    def confirm(self, run_id: int, message_id: str) -> None:
        self.log.append("confirmed")


class FakeProcess:
    """Answers with nothing, and remembers what it was asked."""

    def __init__(self, settings: Any, fab: bytes) -> None:
        self.settings, self.used = settings, 0.0
        self.asked: list[tuple[Context, set[str]]] = []
        self.ended = False

    def answer(self, message: Message, context: Context, tree: ObjectTree, contents: dict[str, bytes]) -> Answer:
        self.asked.append((context, set(contents)))
        reply = Message(RecordDict(), reply_to=message)
        context.state = RecordDict({"seen": ConfigRecord({"times": len(self.asked)})})
        return Answer(reply, *deflated(reply), context, 0.25)

    def close(self) -> None:
        self.ended = True

    kill = close


@pytest.fixture
def superlink(monkeypatch: pytest.MonkeyPatch) -> SuperLink:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 9)
    monkeypatch.setattr(serving, "AppProcess", FakeProcess)
    monkeypatch.setattr(serving, "get_fused_config_from_fab", lambda fab, run: {"overrides": "a=1"})
    return SuperLink()


def made(superlink: SuperLink, **options: Any) -> tuple[Node, list[float]]:
    slept: list[float] = []
    return Node(superlink.connection().patient(), {"rank": 0}, sleep=slept.append, **options), slept


def process(node: Node, run_id: int = 3) -> FakeProcess:
    found: Any = node._runs[run_id].process
    assert isinstance(found, FakeProcess)
    return found


def test_each_message_is_answered_and_its_reply_uploaded(superlink: SuperLink) -> None:
    node, slept = made(superlink)
    first = superlink.ask()
    node.step()
    second = superlink.ask()
    node.step()
    assert [reply.metadata.reply_to_message_id for reply in superlink.sent] == [first, second]
    assert len(superlink.uploaded) == 2, "only what the SuperLink does not have"
    assert superlink.log == ["run 3", "confirmed", "confirmed"], "a run is asked for once"
    context, objects = process(node).asked[1]
    assert (context.run_config, context.node_config) == ({"overrides": "a=1"}, {"rank": 0})
    assert context.state["seen"] == ConfigRecord({"times": 2}), "the state of one message is there for the next"
    assert first not in objects
    assert not slept
    node.step()
    assert slept == [0.25], "as the reply said"


def test_objects_that_come_after_their_message_are_awaited(superlink: SuperLink) -> None:
    node, _ = made(superlink)
    superlink.late[superlink.ask()] = 2
    node.step()
    assert len(superlink.sent) == 1


def test_a_message_whose_objects_are_lost_costs_this_message(superlink: SuperLink) -> None:
    node, _ = made(superlink)
    del superlink.objects[superlink.ask()]
    node.step()
    assert superlink.sent == []
    superlink.ask()
    node.step()
    assert len(superlink.sent) == 1


def test_a_run_that_has_ended_does_not_end_the_node(superlink: SuperLink) -> None:
    node, _ = made(superlink)
    superlink.ended = True
    node.step()
    superlink.ended = False
    superlink.ask()
    node.step()
    assert len(superlink.sent) == 1


def test_an_app_that_nobody_trusted_has_verified_is_not_run(superlink: SuperLink) -> None:
    node, _ = made(superlink, trusted_entities={"fpk_1": "ssh-ed25519 AAAA"})
    superlink.ask()
    node.step()
    assert superlink.sent[0].error.code == ErrorCode.INVALID_FAB
    assert node._runs[3].process is None


def test_the_processes_of_earlier_runs_end_sooner(superlink: SuperLink, monkeypatch: pytest.MonkeyPatch) -> None:
    node, _ = made(superlink)
    for run_id in (3, 4):
        superlink.ask(run_id)
        node.step()
    earlier, later = process(node, 3), process(node, 4)
    earlier.used, later.used = 1000.0, 1001.0

    def look(seconds: float) -> tuple[bool, bool]:
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + seconds)
        node.step()
        return earlier.ended, later.ended

    assert [look(100.0), look(130.0), look(800.0), look(910.0)] == [
        (False, False),
        (True, False),
        (True, False),
        (True, True),
    ]


def test_its_processes_end_with_it(superlink: SuperLink) -> None:
    node, _ = made(superlink)
    superlink.ask()
    node.step()
    running = process(node)
    node.close()
    assert running.ended
