"""The trainer process: holds torch, data, model and CUDA context, and serves one client process after another.

Started by :mod:`echelon.persistent.client`, as ``python -m echelon.persistent.trainer`` with its settings on standard
input. It ends when its SuperNode is gone, when nobody has asked it anything for a while, or when it is replaced.
"""

import importlib
import json
import shutil
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Self, TextIO

from flwr.app import Context, RecordDict

from echelon.persistent import channel as framing
from echelon.persistent import processes

# After this long without a message the memory (of a GPU, say) is better given back.
_IDLE_SECONDS = 900.0
# A client process that does not take its answer is dead or stuck.
_TALK_SECONDS = 60.0

Answer = Callable[[str, RecordDict, Context], RecordDict]


@dataclass(frozen=True)
class Settings:
    """What a trainer is told when it starts.

    ``app`` names a :class:`clients.app.WorkerApp` as ``module:variable``. ``listener`` is the number of an open file:
    the socket. ``parent`` and ``parent_born`` are the process whose end is the trainer's.
    """

    app: str
    key: str
    listener: int
    folder: str
    parent: int
    parent_born: str

    def to_json(self) -> bytes:
        """Return the settings as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, source: TextIO) -> Self:
        """Read settings."""
        return cls(**json.load(source))


def serve(listener: socket.socket, key: bytes, app: str, idle_seconds: float = _IDLE_SECONDS) -> None:
    """Answer requests, one after the other, until there has been none for ``idle_seconds``."""
    listener.settimeout(idle_seconds)
    while True:
        try:
            channel, _ = listener.accept()
        except TimeoutError:
            return
        with channel, suppress(OSError):  # of a client that has gone, or does not know the key
            channel.settimeout(_TALK_SECONDS)
            framing.admit(channel, key)
            _answer(channel, app)


def _answer(channel: socket.socket, app: str) -> None:
    request = framing.receive_request(channel)
    try:
        content = _load(app)(request.message_type, request.content, request.context)
    except Exception as error:  # a failure in the user's code is the answer
        traceback.print_exc()
        framing.send_failure(channel, f"{type(error).__name__}: {error}")
    else:
        framing.send_answer(channel, content)


@cache
def _load(app: str) -> Answer:
    module, _, name = app.partition(":")
    found: Any = getattr(importlib.import_module(module), name)
    answer: Answer = found.answer
    return answer


def main() -> None:
    """Serve as told on standard input."""
    settings = Settings.from_json(sys.stdin)
    sweep = partial(shutil.rmtree, settings.folder, ignore_errors=True)
    processes.end_with(settings.parent, settings.parent_born, sweep)
    with socket.socket(fileno=settings.listener) as listener:
        serve(listener, bytes.fromhex(settings.key), settings.app)


if __name__ == "__main__":
    main()
