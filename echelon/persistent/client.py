"""Persistent workers: one trainer process per run and SuperNode keeps torch, data and model between messages.

Flower starts a new process for every message to a deployed node. The first one of a run starts a trainer process; all
of them forward their message to it through a Unix socket in a private folder, without importing torch. Flower answers
messages of several runs side by side, so every run has its own trainer: one that has died or does not respond is
replaced, and the trainers of other runs are left alone.
"""

import json
import math
import os
import secrets
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from flwr.app import RecordDict

from echelon.persistent import processes
from echelon.persistent.channel import KEY_BYTES, ChannelError, Request, introduce, receive_answer, send_request

# Flower's command that handles one message on a deployed node. Its modules may be imported elsewhere, too.
_PROGRAM = "flwr-clientapp"
# An idle trainer answers immediately; a new one imports Flower first.
_GREETING_SECONDS = 10.0
_STARTING_SECONDS = 300.0


class TrainerLostError(RuntimeError):
    """The trainer process died or did not answer in time; the next message starts a new one."""


@dataclass(frozen=True)
class Trainer:
    """A recorded trainer process."""

    pid: int
    born: str
    key: str

    @classmethod
    def on_record(cls, folder: Path) -> "Trainer | None":
        """Return the trainer recorded in a folder, or None."""
        try:
            return cls(**json.loads((folder / processes.RECORD).read_text()))
        except (FileNotFoundError, TypeError, ValueError):
            return None

    def record(self, folder: Path) -> None:
        """Write the record of this trainer."""
        temporary = folder / f"{processes.RECORD}.new"
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(folder / processes.RECORD)

    def end(self) -> None:
        """Kill the process."""
        processes.end(self.pid, self.born)


def available() -> bool:
    """Return whether a SuperNode started this process for one message (false in a simulation)."""
    return os.name == "posix" and Path(sys.argv[0]).name == _PROGRAM


def ask(app: str, request: Request, seconds: float = math.inf) -> RecordDict:
    """Forward a request to the trainer process of its run on this SuperNode and return its answer.

    Parameters
    ----------
    app : str
        ``module:variable`` of the :class:`clients.app.WorkerApp` that answers.
    request : Request
        The message.
    seconds : float
        Time limit; a trainer that exceeds it is killed.

    Raises
    ------
    WorkerFailedError
        If the request fails in the trainer.
    TrainerLostError
        If the trainer dies or exceeds the time limit.
    """
    parent = os.getppid()
    folder = run_folder(parent, request.context.run_id)
    trainer, channel = _running(folder) or _started(folder, app, parent)
    with channel:
        channel.settimeout(None if math.isinf(seconds) else seconds)
        try:
            send_request(channel, request)
            return receive_answer(channel)
        except OSError as error:
            trainer.end()
            reason = f"it did not answer within {seconds:g} s" if isinstance(error, TimeoutError) else str(error)
            raise TrainerLostError(f"the trainer process was killed: {reason}") from error


def run_folder(parent: int, run_id: int) -> Path:
    """Return the folder, within the private one of a SuperNode, in which a run's trainer is recorded."""
    folder = processes.private_folder(parent) / f"{run_id:x}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _running(folder: Path) -> tuple[Trainer, socket.socket] | None:
    """Return the recorded trainer if it responds; kill it if it does not."""
    trainer = Trainer.on_record(folder)
    if trainer is None:
        return None
    with suppress(OSError):
        return trainer, _connected(folder, trainer.key, _GREETING_SECONDS)
    trainer.end()
    return None


def _started(folder: Path, app: str, parent: int) -> tuple[Trainer, socket.socket]:
    """Start a trainer and wait until it responds."""
    key = secrets.token_hex(KEY_BYTES)
    path = folder / "socket"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = _start_process(listener, app, key, folder, parent)
    trainer = Trainer(process.pid, processes.birth(process.pid) or "", key)
    trainer.record(folder)
    try:
        return trainer, _connected(folder, key, _STARTING_SECONDS)
    except OSError as error:
        trainer.end()
        raise TrainerLostError(f"the trainer process did not start: {error}") from error


def _start_process(listener: socket.socket, app: str, key: str, folder: Path, parent: int) -> "subprocess.Popen[bytes]":
    from echelon.persistent.trainer import Settings

    born = processes.birth(parent)
    if born is None:
        raise ChannelError("the SuperNode has exited")
    settings = Settings(app, key, listener.fileno(), str(folder), parent, born)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "echelon.persistent.trainer"],
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
    assert process.stdin is not None
    with process.stdin, suppress(BrokenPipeError):
        process.stdin.write(settings.to_json())
    process.returncode = 0  # it outlives this process: Popen must not wait for it
    return process


def _connected(folder: Path, key: str, seconds: float) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.settimeout(seconds)
        channel.connect(str(folder / "socket"))
        introduce(channel, bytes.fromhex(key))
    except BaseException:
        channel.close()
        raise
    return channel
