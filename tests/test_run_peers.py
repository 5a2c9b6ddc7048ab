"""The command with engine=torch: the same run folder as in one process, and an end in order."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import run_sim
from conf import cli
from echelon.reports.run_folder import RunFolder
from tests.processes import Family, wait_for

pytestmark = pytest.mark.deployment
RUN = ["progress=plain", "workers=3", "topology=ring", "model=mlp", "partitioner=iid", "eval_every=2", "rounds=3"]
ELSEWHERE = {"wall_seconds", "uplink_bytes", "downlink_bytes"}


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


def numbers(value: Any) -> Any:
    """Return what can be compared with a tolerance."""
    return pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value


def test_the_run_folder_is_that_of_the_other_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("inline", "torch"):
        assert cli.main(run_sim.run, [f"engine={engine}", *RUN, f"run_dir={tmp_path / engine}"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(tmp_path / "torch")
    assert "engine=torch writes no checkpoints: checkpoint_every=25 has no effect" in said
    peers, inline = (RunFolder.open(tmp_path / name) for name in ("torch", "inline"))
    for mine, theirs in zip(peers.metrics, inline.metrics, strict=True):
        assert mine.keys() == theirs.keys()
        for key in theirs.keys() - ELSEWHERE:
            if isinstance(theirs[key], list) and key != "edges":
                assert mine[key] == [numbers(value) for value in theirs[key]], key
            else:
                assert mine[key] == numbers(theirs[key]), key
    assert (peers.summary or {}).keys() == (inline.summary or {}).keys()
    assert (peers.summary or {})["samples"] == (inline.summary or {})["samples"]
    here, there = (
        {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*")}
        for name in ("torch", "inline")
    )
    assert here == {name for name in there if not name.startswith(("checkpoint", "models"))}


def begun(family: Family, folder: Path) -> Any:
    """Start a run that takes long, and wait until its rounds have begun."""
    command = ["engine=torch", *RUN, "rounds=1000000", "eval_every=1000000", "progress=none", f"run_dir={folder}"]
    process = family.start(sys.executable, "run_sim.py", *command)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size)
    return process


def workers(family: Family) -> list[int]:
    return [pid for pid, command in family.alive().items() if "spawn_main" in command]


def test_sigterm_ends_all_processes(tmp_path: Path, family: Family) -> None:
    folder = tmp_path / "run"
    process = begun(family, folder)
    os.killpg(process.pid, signal.SIGTERM)
    said, complained = process.communicate(timeout=30)
    assert process.returncode == 143
    assert complained == "stopping ...\n"
    hint = "interrupted; there is no checkpoint to continue from (engine=torch)"
    assert said.splitlines()[1:] == [hint, str(folder)]
    wait_for(lambda: not family.alive(), 10)
    assert all(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())


def test_a_killed_worker_ends_the_run(tmp_path: Path, family: Family) -> None:
    folder = tmp_path / "run"
    process = begun(family, folder)
    os.kill(workers(family)[-1], signal.SIGKILL)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    line, path = said.splitlines()[1:]
    assert line.startswith("error: the process of worker")
    assert line.endswith(f" was killed by SIGKILL (details in {folder / 'run.log'})")
    assert path == str(folder)
    wait_for(lambda: not family.alive(), 10)


def test_nothing_is_left_of_a_killed_command(tmp_path: Path, family: Family) -> None:
    process = begun(family, tmp_path / "run")
    assert workers(family)
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not family.alive(), 20)
