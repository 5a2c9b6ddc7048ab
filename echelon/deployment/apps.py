"""A node's side of the processes that hold its ClientApps: one per run, started with its first message."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from flwr.app import Context, Error, Message
from flwr.common import serde
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree

from echelon.deployment import app_process
from echelon.deployment.app_process import Contents, Settings, deflated

# Importing and loading an app; whatever it does with a message is limited by what the message says.
_LOADING_SECONDS = 600.0
_ENDING_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """A reply without its content, its objects, and the context that it leaves; none if the app has failed.

    ``poll_seconds`` is how often the server wants the node to ask for messages; None if it does not say.
    """

    reply: Message
    tree: ObjectTree
    contents: Contents
    context: Context | None = None
    poll_seconds: float | None = None


class AppProcess:
    """The process of one run; it is started when it is needed, and again if it has died.

    Parameters
    ----------
    settings : Settings
        Which app.
    fab : bytes
        The app, as Flower delivers it.
    """

    def __init__(self, settings: Settings, fab: bytes) -> None:
        self._settings, self._fab = settings, fab
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self.used = time.monotonic()

    def answer(self, message: Message, context: Context, tree: ObjectTree, contents: Mapping[str, bytes]) -> Answer:
        """Return the app's answer to a message, or an error in its place if the app dies or takes too long.

        Parameters
        ----------
        message : Message
            Without its content.
        context : Context
            Of the run on this node.
        tree, contents
            The message as Flower's objects.
        """
        connection = self._running()
        seconds = _LOADING_SECONDS
        try:
            connection.send_bytes(serde.context_to_proto(context).SerializeToString())
            app_process.send_objects(connection, tree, contents)
            wishes = json.loads(_received(connection, seconds))
            seconds = float(wishes.get("seconds", math.inf))
            _wait(connection, seconds)
            reply, left, reply_tree, reply_contents = app_process.receive_reply(connection)
        except TimeoutError:
            return self._failed(message, f"the ClientApp did not answer within {seconds:g} s and was killed")
        except (EOFError, OSError):
            return self._failed(message, "the process of the ClientApp has died")
        finally:
            self.used = time.monotonic()
        if not wishes.get("keep", True):
            self.close()
        kept = None if reply.has_error() else left
        return Answer(reply, reply_tree, reply_contents, kept, wishes.get("poll_seconds"))

    def close(self) -> None:
        """End the process, and what it has started."""
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_SECONDS)
        _kill(process)

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        if self._process is not None:
            _kill(self._process)
        self.close()

    def _failed(self, message: Message, reason: str) -> Answer:
        self.kill()
        return error_answer(message, Error(ErrorCode.CLIENT_APP_CRASHED, reason))

    def _running(self) -> Connection:
        if self._process is not None and self._process.poll() is not None:
            self.kill()
        if self._connection is None:
            self._process, self._connection = _start()
            self._connection.send_bytes(self._settings.to_json())
            self._connection.send_bytes(self._fab)
        return self._connection


def error_answer(message: Message, error: Error) -> Answer:
    """Return an error in place of an app's answer."""
    reply = Message(error, reply_to=message)
    return Answer(reply, *deflated(reply))


def _start() -> tuple["subprocess.Popen[bytes]", Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", app_process.__file__, str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # A signal to the group of the node must not reach it: the node ends it, in order.
            start_new_session=True,
        )
    return process, Connection(ours.detach())


def _received(connection: Connection, seconds: float) -> bytes:
    _wait(connection, seconds)
    return connection.recv_bytes()


def _wait(connection: Connection, seconds: float) -> None:
    if not connection.poll(None if math.isinf(seconds) else seconds):
        raise TimeoutError


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
