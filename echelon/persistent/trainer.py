"""The trainer process: keeps torch, data, model and CUDA context, and serves client processes one at a time.

:mod:`echelon.persistent.client` starts it as ``python -m echelon.persistent.trainer`` with its settings on standard
input. It exits when its SuperNode exits, after an idle timeout (a shorter one if a later run has its own trainer on the
same SuperNode), or when it is replaced.
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
from pathlib import Path
from typing import Any, Self, TextIO

from flwr.app import Context, RecordDict

from echelon.persistent import channel as framing
from echelon.persistent import processes

# Idle timeouts, after which memory (of a GPU, for example) is released. Flower does not tell a SuperNode that a run has
# ended; that a later one has begun makes it likely.
_IDLE_SECONDS = 900.0
_IDLE_BESIDE_LATER_SECONDS = 120.0
# A client process that does not read its answer is dead or unresponsive.
_TALK_SECONDS = 60.0

Answer = Callable[[str, RecordDict, Context], RecordDict]


@dataclass(frozen=True)
class Settings:
    """Settings of a trainer process.

    ``app`` names a :class:`clients.app.WorkerApp` as ``module:variable``. ``listener`` is the file
    descriptor of the socket. ``folder`` records the trainer. The trainer exits with the process ``parent``, started at
    ``parent_born``, and removes the folder that holds those of all its trainers.
    """

    app: str
    key: str
    listener: int
    folder: str
    parent: int
    parent_born: str

    def to_json(self) -> bytes:
        """Serialise the settings as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, source: TextIO) -> Self:
        """Parse settings."""
        return cls(**json.load(source))


def serve(listener: socket.socket, key: bytes, app: str, folder: Path) -> None:
    """Answer requests sequentially, until none has arrived for the idle timeout."""
    listener.settimeout(_IDLE_BESIDE_LATER_SECONDS)
    idle = 0.0
    while True:
        try:
            channel, _ = listener.accept()
        except TimeoutError:
            idle += _IDLE_BESIDE_LATER_SECONDS
            if idle >= _IDLE_SECONDS or _has_later(folder):
                return
            continue
        idle = 0.0
        with channel, suppress(OSError):  # the client has exited or does not know the key
            channel.settimeout(_TALK_SECONDS)
            framing.admit(channel, key)
            _answer(channel, app)


def _has_later(folder: Path) -> bool:
    """Return whether a trainer that was started later than this one is recorded for the same SuperNode."""
    own = (folder / processes.RECORD).stat().st_mtime_ns
    return any(record.stat().st_mtime_ns > own for record in folder.parent.glob(f"*/{processes.RECORD}"))


def _answer(channel: socket.socket, app: str) -> None:
    request = framing.receive_request(channel)
    try:
        content = _load(app)(request.message_type, request.content, request.context)
    except Exception as error:  # an error in user code is sent to the client
        traceback.print_exc()
        framing.send_failure(channel, f"{type(error).__name__}: {error}")
    else:
        framing.send_answer(channel, content)


@cache
def _load(app: str) -> Answer:
    module, _, name = app.partition(":")
    worker_app: Any = getattr(importlib.import_module(module), name)
    answer: Answer = worker_app.answer
    return answer


def main() -> None:
    """Serve with the settings on standard input."""
    settings = Settings.from_json(sys.stdin)
    folder = Path(settings.folder)
    sweep = partial(shutil.rmtree, folder.parent, ignore_errors=True)
    processes.end_with(settings.parent, settings.parent_born, sweep)
    with socket.socket(fileno=settings.listener) as listener:
        serve(listener, bytes.fromhex(settings.key), settings.app, folder)


if __name__ == "__main__":
    main()
