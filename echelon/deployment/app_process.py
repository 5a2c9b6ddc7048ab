"""The process that holds a run's ClientApp for a node, and answers one message after the other.

A program of its own (``python -P app_process.py DESCRIPTOR PARENT``), which imports nothing of Echelon: the app brings
the Echelon that it was submitted with. It talks to its node through an inherited socket, by frames without pickle, and
ends with it.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from logging import ERROR
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Context, Error, Message
from flwr.app.message import remove_content_from_message
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common import serde
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore import log
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

Contents = dict[str, bytes]

_WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    """Which app to install and to load, for which node."""

    run_id: int
    node_id: int
    fab_id: str
    fab_version: str
    fab_hash: str

    def to_json(self) -> bytes:
        """Serialise the settings."""
        return json.dumps(asdict(self)).encode()


def send_objects(connection: Connection, tree: ObjectTree, contents: Mapping[str, bytes]) -> None:
    """Send a message as the objects that Flower makes of it."""
    connection.send_bytes(tree.SerializeToString())
    connection.send_bytes(json.dumps(list(contents)).encode())
    for content in contents.values():
        connection.send_bytes(content)


def receive_objects(connection: Connection) -> tuple[ObjectTree, Contents]:
    """Receive what :func:`send_objects` sends; raise EOFError or OSError if the other side has gone."""
    tree = ObjectTree.FromString(connection.recv_bytes())
    names: list[str] = json.loads(connection.recv_bytes())
    return tree, {name: connection.recv_bytes() for name in names}


def deflated(message: Message) -> tuple[ObjectTree, Contents]:
    """Return the objects of a message, and set its id."""
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = get_all_nested_objects(message)
        return get_object_tree(message), {name: each.deflate() for name, each in objects.items()}


def serve(connection: Connection) -> None:
    """Answer messages until the node closes the connection."""
    settings = Settings(**json.loads(connection.recv_bytes()))
    fab = connection.recv_bytes()
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = settings.run_id, settings.node_id, 0
    app: ClientApp | None = None
    while True:
        context = serde.context_from_proto(ProtoContext.FromString(connection.recv_bytes()))
        message = _inflated(*receive_objects(connection))
        try:
            app = app or _load(settings, fab)
            connection.send_bytes(json.dumps(_wishes(app, message)).encode())
            reply = app(message=message, context=context)
        except Exception as error:  # whatever the app raises is its node's reply
            log(ERROR, "ClientApp raised an exception", exc_info=error)
            if app is None:
                connection.send_bytes(b"{}")
            reply = Message(_as_error(error), reply_to=message)
        _send_reply(connection, reply, context)


def _inflated(tree: ObjectTree, contents: Contents) -> Message:
    message = inflate_object_from_contents(tree.object_id, contents)
    assert isinstance(message, Message)
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message


def _load(settings: Settings, fab: bytes) -> ClientApp:
    install_from_fab(fab, skip_prompt=True)
    load = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    return load(settings.fab_id, settings.fab_version, settings.fab_hash)


def _wishes(app: ClientApp, message: Message) -> dict[str, Any]:
    """Return what an app of Echelon's says about a message beforehand (``WorkerApp.wishes``); others say nothing."""
    wishes = getattr(app, "wishes", None)
    return {} if wishes is None else dict(wishes(message))


def _as_error(error: Exception) -> Error:
    """Return the error that Flower's own process replies with."""
    if isinstance(error, LoadClientAppError):
        return Error(ErrorCode.LOAD_CLIENT_APP_EXCEPTION, f"The ClientApp could not be loaded: {error}")
    return Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>")


def _send_reply(connection: Connection, reply: Message, context: Context) -> None:
    tree, contents = deflated(reply)
    connection.send_bytes(serde.message_to_proto(remove_content_from_message(reply)).SerializeToString())
    connection.send_bytes(serde.context_to_proto(context).SerializeToString())
    send_objects(connection, tree, contents)


def receive_reply(connection: Connection) -> tuple[Message, Context, ObjectTree, Contents]:
    """Receive a reply without its content, the context as the app has left it, and the reply's objects."""
    reply = serde.message_from_proto(ProtoMessage.FromString(connection.recv_bytes()))
    context = serde.context_from_proto(ProtoContext.FromString(connection.recv_bytes()))
    return reply, context, *receive_objects(connection)


def _end_with(parent: int) -> None:
    """Kill this process, and what it has started, when its node is gone, whatever the app is doing."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main(descriptor: int, parent: int) -> None:
    """Serve the node at the other end of a socket."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with Connection(descriptor) as connection:
        try:
            serve(connection)
        except (EOFError, ConnectionError):  # the node has gone, or does not need the app any more
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
