"""Ctrl-C and SIGTERM in every phase of the command: at once, in order, with the right status and no process left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import client_app
import run_sim
import server_app
from app.evaluation import Evaluation
from conf import cli, compose
from echelon.engines.inline import InlineGrid
from echelon.reports import progress
from echelon.server import checkpoint
from strategies import RunStoppedError
from tests.processes import Family, wait_for

RUN = ["engine=inline", "progress=none", "workers=4", "topology=ring", "partitioner=iid", "checkpoint_every=1000"]

# Runs the command with one function that hangs after some calls, as slow work does, and says so in a file.
HANGING = """
import importlib, runpy, sys, time
from pathlib import Path

_, hung, name, calls, *arguments = sys.argv
module, _, function = name.partition(":")
calls = int(calls)
module = importlib.import_module(module)
original = getattr(module, function)


def hang(*given, **named):
    global calls
    calls -= 1
    if calls >= 0:
        return original(*given, **named)
    Path(hung).touch()
    time.sleep(600)


setattr(module, function, hang)
sys.argv = ["run_sim.py", *arguments]
runpy.run_path("run_sim.py", run_name="__main__")
"""


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


def stopped(process: "subprocess.Popen[str]", number: signal.Signals) -> list[str]:
    """Send a signal to a command and all that it has started, as terminals and schedulers do; return its output."""
    os.killpg(process.pid, number)
    said, complained = process.communicate(timeout=30)
    assert complained == "stopping ...\n"
    assert process.returncode == 128 + number
    return said.splitlines()


@pytest.mark.parametrize(
    ("function", "calls", "number", "rounds"),
    [
        ("conf.loading:compose", 0, signal.SIGINT, None),
        ("app.checks:load_task", 0, signal.SIGTERM, None),
        ("server_app:load_task", 0, signal.SIGTERM, 0),
        ("server_app:make_partition", 0, signal.SIGINT, 0),
        ("clients.worker:train", 6, signal.SIGTERM, 1),
        ("echelon.reports.figures:write", 0, signal.SIGINT, 2),
    ],
)
def test_phases(
    function: str, calls: int, number: signal.Signals, rounds: int | None, tmp_path: Path, family: Family
) -> None:
    hung, folder = tmp_path / "hung", tmp_path / "run"
    hanging = [HANGING, str(hung), function, str(calls)]
    process = family.start(sys.executable, "-c", *hanging, *RUN, "rounds=2", f"run_dir={folder}")
    wait_for(hung.exists)
    said = stopped(process, number)
    if rounds is None:
        assert said == []
        assert not folder.exists()
    else:
        assert said == [f"interrupted; {hint(folder, rounds)}", str(folder)]
        assert checkpoint.exists(folder / "checkpoint") == (rounds > 0)
    wait_for(lambda: not family.alive(), 10)


def hint(folder: Path, rounds: int) -> str:
    command = f"python run_sim.py resume={folder}"
    if rounds:
        return f"to continue: {command}"
    return f"there is no checkpoint to continue from; to start again: {command}"


def test_a_sweep_stops_as_a_whole(tmp_path: Path, family: Family) -> None:
    hanging = [HANGING, str(tmp_path / "hung"), "echelon.reports.figures:write", "0"]
    sweep = ["--multirun", "seed=0,1", "rounds=1", f"run_dir={tmp_path}"]
    process = family.start(sys.executable, "-c", *hanging, *RUN, *sweep)
    wait_for((tmp_path / "hung").exists)
    assert stopped(process, signal.SIGINT)[-1] == str(tmp_path / "0")
    assert not (tmp_path / "1").exists()


def records(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "wall_seconds"} for record in found]


def test_stopped_in_an_evaluation_that_a_resumed_run_makes_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*RUN, "rounds=3", "eval_every=1"]
    whole, broken, stop = tmp_path / "whole", tmp_path / "broken", Event()
    assert cli.main(run_sim.run, [*overrides, f"run_dir={whole}"]) == 0
    evaluate = Evaluation.__call__

    def evaluate_until_stopped(self: Evaluation, server_round: int, arrays: Any) -> Any:
        if server_round == 2:
            stop.set()
        return evaluate(self, server_round, arrays)

    monkeypatch.setattr(Evaluation, "__call__", evaluate_until_stopped)
    config = compose([*overrides, f"run_dir={broken}"])
    with server_app.open_folder(config, broken) as folder, pytest.raises(RunStoppedError):
        server_app.run(config, InlineGrid(client_app.make_app(config), 4), folder, progress.make("none"), stop)
    monkeypatch.undo()
    assert "worker_accuracy" not in records(broken)[1]
    assert checkpoint.load(broken / "checkpoint").round == 2
    assert cli.main(run_sim.run, [f"resume={broken}", "progress=none"]) == 0
    assert records(broken) == records(whole)
