"""The command with engine=torch: the same run folder as in one process, and an end in order."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.utils import parameters_to_vector

import run_sim
from app.task import build_model
from conf import cli, compose
from echelon.reports.models import load_into
from echelon.reports.run_folder import RunFolder
from echelon.server import checkpoint
from tests.processes import Family, wait_for

pytestmark = pytest.mark.deployment
RUN = [
    *("progress=plain", "workers=3", "topology=path", "model=mlp", "partitioner=iid"),
    *("eval_every=2", "evaluate_workers=all", "rounds=5"),
]
# Met in the third round, which is not evaluated.
STOP_AT = "stop_at=virtual_seconds>0.2"
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
        assert cli.main(run_sim.run, [f"engine={engine}", *RUN, STOP_AT, f"run_dir={tmp_path / engine}"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(tmp_path / "torch")
    peers, inline = (RunFolder.open(tmp_path / name) for name in ("torch", "inline"))
    for mine, theirs in zip(peers.metrics, inline.metrics, strict=True):
        assert mine.keys() == theirs.keys()
        for key in theirs.keys() - ELSEWHERE:
            if isinstance(theirs[key], list) and key != "edges":
                assert mine[key] == [numbers(value) for value in theirs[key]], key
            else:
                assert mine[key] == numbers(theirs[key]), key
    assert len(peers.metrics) == 3
    assert (peers.summary or {}).keys() == (inline.summary or {}).keys()
    assert (peers.summary or {})["samples"] == (inline.summary or {})["samples"]
    here, there = (
        {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*") if path.suffix != ".npz"}
        for name in ("torch", "inline")
    )
    own = {f"models/worker_{rank}{of}.safetensors" for rank in range(3) for of in ("", "_best_round")}
    assert here - there == {f"checkpoint/worker-{rank}" for rank in range(3)} | own
    assert there <= here
    for name in ("consensus", "best_worker", "best_round"):
        mine, theirs = (
            load_file(tmp_path / engine / "models" / f"{name}.safetensors") for engine in ("torch", "inline")
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    one, other = (checkpoint.load(tmp_path / name / "checkpoint") for name in ("torch", "inline"))
    assert one.round == other.round == 3
    np.testing.assert_allclose(one.rows, other.rows, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(one.cursors, other.cursors)
    check_own_models(tmp_path / "torch", one.rows)


def check_own_models(folder: Path, rows: NDArray[np.float32]) -> None:
    """Compare what each worker keeps with its row, and with the mean of all; a run can start from it."""
    model = build_model(compose(RUN))
    for of, whole in (("", "consensus"), ("_best_round", "best_round")):
        vectors = []
        for rank in range(3):
            load_into(model, folder / "models" / f"worker_{rank}{of}.safetensors")
            vectors.append(parameters_to_vector(model.parameters()).detach())
            if not of:
                np.testing.assert_array_equal(vectors[rank].numpy(), rows[rank])
        assert not torch.equal(vectors[0], vectors[1])
        load_into(model, folder / "models" / f"{whole}.safetensors")
        torch.testing.assert_close(sum(vectors) / 3, parameters_to_vector(model.parameters()).detach())
    with safe_open(folder / "models" / "worker_1_best_round.safetensors", "np") as opened:
        assert (opened.metadata()["round"], opened.metadata()["rank"]) == ("2", "1")


def begun(family: Family, folder: Path, *more: str) -> Any:
    """Start a run that takes long, and wait until its rounds have begun."""
    long = ["rounds=1000000", "eval_every=1000000", "engine.processes=3", "progress=none"]
    command = ["engine=torch", *RUN, *long, *more, f"run_dir={folder}"]
    process = family.start(sys.executable, "run_sim.py", *command)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size)
    return process


def workers(family: Family) -> list[int]:
    return [pid for pid, command in family.alive().items() if "spawn_main" in command]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def plain(folder: Path) -> list[dict[str, Any]]:
    """Return the records, but for the time that the rounds took here."""
    return [{name: value for name, value in record.items() if name != "wall_seconds"} for record in records(folder)]


def test_sigterm_ends_all_processes_with_a_checkpoint(
    tmp_path: Path, family: Family, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """If a file of one worker is damaged then, all processes go on from the same earlier round."""
    folder = tmp_path / "run"
    process = begun(family, folder, "checkpoint_every=20")
    wait_for(lambda: len(records(folder)) > 30)
    os.killpg(process.pid, signal.SIGTERM)
    said, complained = process.communicate(timeout=30)
    assert process.returncode == 143
    assert complained == "stopping ...\n"
    assert said.splitlines() == [f"interrupted; to continue: python run_sim.py resume={folder}", str(folder)]
    wait_for(lambda: not family.alive(), 10)
    reached = len(records(folder))
    assert checkpoint.load(folder / "checkpoint").round == reached
    before, saved = plain(folder), sorted((folder / "checkpoint" / "worker-1").iterdir())
    saved[-1].write_bytes(b"damaged")
    assert cli.main(run_sim.run, [f"resume={folder}", f"rounds={reached + 2}", "progress=none"]) == 0
    assert f"{saved[-1]} is missing or damaged: the checkpoint of round {reached} is skipped" in caplog.messages
    assert plain(folder)[:reached] == before, "rounds that are done again have the same records"
    assert [record["round"] for record in records(folder)] == list(range(1, reached + 3))
    assert (RunFolder.open(folder).summary or {})["rounds"] == reached + 2
    saved = sorted((folder / "checkpoint" / "worker-1").iterdir())
    for file in saved:
        file.unlink()
    assert cli.main(run_sim.run, [f"resume={folder}", "progress=none"]) == 2
    line = f"error: resume: no whole checkpoint in {folder}/checkpoint; {saved[-1]} is missing or damaged"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert len(records(folder)) == reached + 2


def test_workers_are_killed(tmp_path: Path, family: Family) -> None:
    """One: the others go on until it is back. All: the run ends, and can be resumed."""
    folder = tmp_path / "run"
    process = begun(family, folder)
    os.kill(workers(family)[-1], signal.SIGKILL)
    wait_for(lambda: any(record["rejections"] for record in records(folder)))
    lost = next(record for record in records(folder) if record["rejections"])
    ((rank, reason),) = lost["rejections"].items()
    assert reason == f"the process of worker {rank} was killed by SIGKILL"
    assert int(rank) not in lost["present"]
    assert lost["rejected"] == 1
    wait_for(lambda: records(folder)[-1]["present"] == [0, 1, 2])
    for pid in workers(family):
        os.kill(pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    line, path = said.splitlines()
    assert line.startswith("error: no process is left; the process of worker")
    assert f" was killed by SIGKILL; to continue: python run_sim.py resume={folder} (details in" in line
    assert path == str(folder)
    wait_for(lambda: not family.alive(), 10)


def test_nothing_is_left_of_a_killed_command(tmp_path: Path, family: Family) -> None:
    process = begun(family, tmp_path / "run")
    assert workers(family)
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not family.alive(), 20)
