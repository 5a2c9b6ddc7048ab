"""The process that holds a ClientApp for a node: what it answers, and what becomes of one that fails."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from echelon.deployment.app_process import Settings, deflated
from echelon.deployment.apps import Answer, AppProcess
from echelon.persistent.processes import birth
from tests.processes import wait_for

APP = """
import os, subprocess, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp


class App(ClientApp):
    def wishes(self, message):
        return {key: message.content["config"][key] for key in ("seconds", "keep") if key in message.content["config"]}


app = App()
count = 0


@app.query()
def answer(message, context):
    global count
    count += 1
    what = message.content["config"]["what"]
    if what == "raise":
        raise ValueError("no")
    if what == "die":
        os._exit(3)
    child = subprocess.Popen(["sleep", "600"]).pid if what == "hang" else 0
    if what == "hang":
        open(message.content["config"]["file"], "w").write(f"{os.getpid()} {child}\\n")
        time.sleep(600)
    seen = context.state.get("seen", ConfigRecord({"times": 0}))["times"] + 1
    context.state["seen"] = ConfigRecord({"times": seen})
    reply = {"count": count, "pid": os.getpid(), "seen": seen, "rank": context.node_config["rank"]}
    return Message(RecordDict({"reply": ConfigRecord(reply)}), reply_to=message)
"""
PYPROJECT = """
[project]
name = "asked"
version = "1.0.0"
description = "for a test"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "echelon"

[tool.flwr.app.components]
serverapp = "asked:app"
clientapp = "asked:app"
"""

Ask = Callable[..., Answer]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give messages the sender that Flower wants."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 9)


@pytest.fixture(scope="module")
def fab(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("asked")
    (folder / "asked.py").write_text(APP)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pathspec, which Flower uses
        return build_fab_from_disk(folder)


@pytest.fixture
def process(fab: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppProcess]:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    made = AppProcess(Settings(9, 7, "echelon/asked", "1.0.0", hashlib.sha256(fab).hexdigest()), fab)
    yield made
    made.kill()


@pytest.fixture
def ask(process: AppProcess) -> Ask:
    context = Context(9, 7, {"rank": 4}, RecordDict(), {})

    def ask(what: str = "", **config: bool | float | str) -> Answer:
        content = RecordDict({"config": ConfigRecord({"what": what, **config})})
        message = Message(content, 7, "query")
        answer = process.answer(message, context, *deflated(message))
        assert answer.reply.metadata.reply_to_message_id == message.metadata.message_id
        if answer.context is not None:
            context.state = answer.context.state
        return answer

    return ask


def content(answer: Answer) -> ConfigRecord:
    message = inflate_object_from_contents(answer.tree.object_id, dict(answer.contents))
    assert isinstance(message, Message)
    return message.content.config_records["reply"]


def test_a_process_answers_until_it_fails(ask: Ask) -> None:
    first, second = content(ask()), content(ask())
    assert (first["count"], second["count"], first["rank"]) == (1, 2, 4)
    assert first["pid"] == second["pid"] != os.getpid()

    raised = ask("raise").reply.error
    assert raised.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert raised.reason == "<class 'ValueError'>:<'no'>"
    third = content(ask())
    assert (third["pid"], third["seen"]) == (first["pid"], 3), "an exception ends neither process nor state"

    dead = ask("die").reply.error
    assert (dead.code, dead.reason) == (ErrorCode.CLIENT_APP_CRASHED, "the process of the ClientApp has died")
    fourth = content(ask(keep=False))
    assert (fourth["count"], fourth["seen"]) == (1, 4), "another process, the same state"
    assert birth(int(str(fourth["pid"]))) is None, "it did not want to be kept"


def test_a_process_that_hangs_is_killed_with_its_children(ask: Ask, tmp_path: Path) -> None:
    began = time.monotonic()
    error = ask("hang", seconds=0.5, file=str(tmp_path / "pids")).reply.error
    assert error.reason == "the ClientApp did not answer within 0.5 s and was killed"
    assert time.monotonic() - began < 60
    for pid in (tmp_path / "pids").read_text().split():
        wait_for(lambda pid=pid: birth(int(pid)) is None, 5)  # type: ignore[misc]


HOLDER = """
import sys
from pathlib import Path
from flwr.app import ConfigRecord, Context, Message, RecordDict
from echelon.deployment.app_process import Settings, deflated
from echelon.deployment.apps import AppProcess
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 9
fab, file, digest = Path(sys.argv[1]).read_bytes(), sys.argv[2], sys.argv[3]
message = Message(RecordDict({"config": ConfigRecord({"what": "hang", "file": file})}), 7, "query")
process = AppProcess(Settings(9, 7, "echelon/asked", "1.0.0", digest), fab)
process.answer(message, Context(9, 7, {"rank": 0}, RecordDict(), {}), *deflated(message))
"""


def test_a_process_ends_with_its_node_whatever_it_is_doing(fab: bytes, tmp_path: Path) -> None:
    (tmp_path / "app.fab").write_bytes(fab)
    pids = tmp_path / "pids"
    arguments = [str(tmp_path / "app.fab"), str(pids), hashlib.sha256(fab).hexdigest()]
    environment = {**os.environ, "FLWR_HOME": str(tmp_path)}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, *arguments], env=environment)
    try:
        wait_for(lambda: pids.exists() and pids.read_text().endswith("\n"), 60)
        holder.send_signal(signal.SIGKILL)
        for pid in pids.read_text().split():
            wait_for(lambda pid=pid: birth(int(pid)) is None, 5)  # type: ignore[misc]
    finally:
        holder.kill()
        holder.wait()


def test_an_app_that_cannot_be_loaded_is_an_error(process: AppProcess) -> None:
    process._settings = Settings(9, 7, "echelon/another", "1.0.0", "0" * 64)
    message = Message(RecordDict({"config": ConfigRecord({"what": ""})}), 7, "query")
    answer = process.answer(message, Context(9, 7, {}, RecordDict(), {}), *deflated(message))
    assert answer.reply.error.code == ErrorCode.LOAD_CLIENT_APP_EXCEPTION
