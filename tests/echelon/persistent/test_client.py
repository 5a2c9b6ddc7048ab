import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from clients import WorkerApp
from echelon.persistent import client, processes
from echelon.persistent.channel import ChannelError, Request, WorkerFailedError, send_request
from echelon.persistent.client import TrainerLostError, ask
from echelon.protocol.messages import as_ndarray
from echelon.protocol.packing import pack

RUN = 7


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process in place of the SuperNode; the trainers that a test starts for it are killed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="echelon"))  # short: a socket's path has 108 characters at most
    process = subprocess.Popen(["sleep", "600"])
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(os, "getppid", lambda: process.pid)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield process
    for record in processes.private_folder(process.pid).glob(f"*/{processes.RECORD}"):
        recorded = client.Trainer.on_record(record.parent)
        if recorded is not None:
            recorded.end()
    process.kill()
    process.wait()
    shutil.rmtree(folder)


def request(wish: str = "", run_id: int = RUN, arrays: ArrayRecord | None = None) -> Request:
    content = RecordDict({"config": ConfigRecord({"wish": wish})})
    if arrays is not None:
        content["arrays"] = arrays
    return Request("train", content, Context(run_id, 1, {"rank": 2}, RecordDict(), {}))


def pid_and_calls(content: RecordDict) -> tuple[int, int]:
    metrics = content.metric_records["metrics"]
    return int(metrics["pid"]), int(metrics["calls"])  # type: ignore[arg-type]


def on_record(node: subprocess.Popen[bytes], run_id: int = RUN) -> client.Trainer:
    trainer = client.Trainer.on_record(client.run_folder(node.pid, run_id))
    assert trainer is not None
    return trainer


def wait_until_gone(pid: int) -> None:
    began = time.monotonic()
    while processes.birth(pid) is not None:
        assert time.monotonic() - began < 20
        time.sleep(0.05)


def test_stays_for_a_run(node: subprocess.Popen[bytes]) -> None:
    arrays = ArrayRecord({"w": Array(np.arange(6, dtype=np.float32).reshape(2, 3))})
    first = ask("persistent_app:app", request(arrays=arrays))
    assert as_ndarray(first.array_records["arrays"]["w"]).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert dict(first.config_records["request"]) == {"type": "train", "rank": 2}
    pid, calls = pid_and_calls(first)
    assert (pid, calls) == (on_record(node).pid, 1)
    with pytest.raises(WorkerFailedError, match="ValueError: no such sample"):
        ask("persistent_app:app", request("raise"))
    folder = client.run_folder(node.pid, RUN)
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert oct((folder / "trainer.json").stat().st_mode & 0o777) == "0o600"
    with pytest.raises(OSError, match=r"closed|reset"):
        client._connected(folder, "00" * 32, 5.0)
    assert pid_and_calls(ask("persistent_app:app", request())) == (pid, 2)


def test_two_runs_at_once_have_a_trainer_each(node: subprocess.Popen[bytes]) -> None:
    """A message of the second run comes while one of the first is being answered; neither is lost."""
    go = processes.private_folder(node.pid) / "go"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, "persistent_app:app", request(str(go)))
        second = pid_and_calls(ask("persistent_app:app", request(run_id=RUN + 1)))
        again = pid_and_calls(ask("persistent_app:app", request(run_id=RUN + 1)))
        busy = not first.done()
        go.touch()
        answered = pid_and_calls(first.result(60))
    assert busy
    assert second == (on_record(node, RUN + 1).pid, 1)
    assert again == (second[0], 2)
    assert answered == (on_record(node, RUN).pid, 1)
    assert answered[0] != second[0]


def test_an_app_that_cannot_be_imported(node: subprocess.Popen[bytes]) -> None:
    with pytest.raises(WorkerFailedError, match="ModuleNotFoundError: No module named 'elsewhere'"):
        ask("elsewhere:app", request())


def test_dead_or_stuck_is_replaced(node: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainerLostError, match=r"the connection was closed|reset"):
        ask("persistent_app:app", request("die"))
    died = on_record(node).pid
    wait_until_gone(died)
    second, calls = pid_and_calls(ask("persistent_app:app", request()))
    assert (second != died, calls) == (True, 1)
    with pytest.raises(TrainerLostError, match=r"did not answer within 0\.3 s"):
        ask("persistent_app:app", request("sleep"), 0.3)
    wait_until_gone(second)
    stopped, _ = pid_and_calls(ask("persistent_app:app", request()))
    os.kill(stopped, signal.SIGSTOP)  # like a process that hangs in a driver
    monkeypatch.setattr(client, "_GREETING_SECONDS", 0.5)
    assert pid_and_calls(ask("persistent_app:app", request()))[1] == 1
    wait_until_gone(stopped)


def test_ends_with_its_node_in_the_middle_of_work(node: subprocess.Popen[bytes]) -> None:
    pid, _ = pid_and_calls(ask("persistent_app:app", request()))
    folder = client.run_folder(node.pid, RUN)
    with client._connected(folder, on_record(node).key, 10.0) as channel:
        send_request(channel, request("sleep"))
        node.kill()
        node.wait()
        wait_until_gone(pid)
    assert not folder.parent.exists()


def test_without_a_node_there_is_nothing_to_do(node: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    node.kill()
    node.wait()
    with pytest.raises(ChannelError, match="the SuperNode has exited"):
        ask("persistent_app:app", request())


class TestWorkerApp:
    @pytest.fixture
    def message(self, monkeypatch: pytest.MonkeyPatch) -> Message:
        from flwr.supercore.task_identity import TaskIdentity

        for name, value in {"_run_id": RUN, "_task_id": 1, "_node_id": 1}.items():
            monkeypatch.setattr(TaskIdentity, name, value)
        return Message(RecordDict({"config": ConfigRecord({"persistent": True})}), dst_node_id=1, message_type="train")

    @pytest.fixture
    def requests(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Request, float]]:
        calls: list[tuple[str, Request, float]] = []

        def note(app: str, request: Request, seconds: float) -> RecordDict:
            calls.append((app, request, seconds))
            return RecordDict()

        monkeypatch.setattr(client, "ask", note)
        return calls

    app = WorkerApp(lambda message_type, content, context: RecordDict(), persistent="my_app:app")
    context = Context(RUN, 1, {"rank": 0}, RecordDict({"kept": ConfigRecord({"by": "node"})}), {"overrides": "seed=3"})

    def test_tells_a_node_what_the_instructions_say_also_if_they_are_packed(self, message: Message) -> None:
        given = {"budget_seconds": 2.5, "timeout_seconds": 4.0, "persistent": False, "poll_seconds": 0.7}
        message.content.config_records["config"].update(given)
        expected = {"seconds": 6.5, "keep": False, "poll_seconds": 0.7}
        assert self.app.wishes(message) == expected
        message.content = pack(message.content)
        assert self.app.wishes(message) == expected

    def test_answers_in_this_process_in_a_simulation(
        self, message: Message, requests: list[tuple[str, Request, float]]
    ) -> None:
        importlib.import_module("flwr.supernode.runtime.run_clientapp")  # as a node of ours does
        self.app(message, self.context)
        assert requests == []

    def test_asks_the_trainer_on_a_real_device(
        self, message: Message, requests: list[tuple[str, Request, float]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/flwr-clientapp", "--insecure"])
        # Its thread would end the test run while another test changes how processes are identified.
        monkeypatch.setattr(processes, "end_with_parent", lambda: None)
        self.app(message, self.context)
        message.content.config_records["config"].update({"budget_seconds": 2.5, "timeout_seconds": 4.0})
        self.app(message, self.context)
        message.content.config_records["config"]["round_timeout_seconds"] = 5.0
        self.app(message, self.context)
        message.content.config_records["config"].update({"budget_seconds": float("inf")})
        self.app(message, self.context)
        message.content.config_records["config"]["persistent"] = False
        self.app(message, self.context)
        assert [app for app, _, _ in requests] == ["my_app:app"] * 4
        assert [seconds for _, _, seconds in requests] == [float("inf"), 6.5, 5.0, 5.0]
        sent = requests[0][1]
        assert (sent.message_type, sent.context.run_config, len(sent.context.state)) == (
            "train",
            {"overrides": "seed=3"},
            0,
        )
        assert len(self.context.state) == 1


def test_client_process_needs_no_torch_and_no_configuration() -> None:
    code = "import sys, client_app; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "scipy", "hydra", "networkx", "matplotlib", "ray"} & set(ran.stdout.split()) == set()
