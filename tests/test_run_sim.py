"""The command a user types: exit statuses, one-line errors, the run folder."""

import json
import signal
import sys
from pathlib import Path

import pytest

import run_sim
from conf import cli
from tests.processes import Family, wait_for

QUICK = ["engine=inline", "progress=none", "rounds=2", "eval_every=1", "checkpoint_every=1"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stratgy=matcha", "stratgy is no key; did you mean strategy?"),
        ("rounds=many", "rounds must be an integer; got many"),
        ("strategy=gossip", "strategy must be one of all_reduce, d_psgd, matcha, al_dsgd"),
        ("strategy.c1=7.0", "strategy.c1 must lie in [0, 1); got 7.0"),
        ("task=fashion_mnist task.root=nowhere", "task.root"),
        (
            "topology=edges topology.edges=[[0,1],[2,3]] workers=4",
            "must be connected; got 2 components: [0, 1], [2, 3]",
        ),
        ("workers=2000 topology=ring", "workers must be at most the 1442 training samples"),
    ],
)
def test_bad_input_ends_in_one_line(
    override: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(run_sim.run, [*QUICK, f"run_dir={tmp_path / 'run'}", *override.split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert line in said[0]
    assert not (tmp_path / "run").exists()


def test_a_run_leaves_what_was_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert cli.main(run_sim.run, [*QUICK, f"run_dir={folder}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    assert {path.name for path in folder.iterdir()} >= {
        *("config.yaml", "environment.json", "partition.npz", "partition.json", "metrics.jsonl"),
        *("checkpoint", "summary.json", "figures", "run.log"),
    }
    records = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [1, 2]
    assert len(records[-1]["worker_accuracy"]) == 8
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["consensus_accuracy"] == records[-1]["consensus_accuracy"]
    assert summary["samples"] == sum(sum(record["samples"]) for record in records)


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli.main(run_sim.run, [*QUICK, "rounds=4", f"run_dir={whole}"]) == 0
    assert cli.main(run_sim.run, [*QUICK, "rounds=2", f"run_dir={broken}"]) == 0
    assert cli.main(run_sim.run, [f"resume={broken}", "rounds=4", "progress=none"]) == 0
    capsys.readouterr()

    def losses(folder: Path) -> list[float]:
        return [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert losses(broken) == losses(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_go_on(number: signal.Signals, tmp_path: Path) -> None:
    folder, family = tmp_path / "run", Family()
    arguments = ["engine=inline", f"run_dir={folder}", "rounds=100000", "checkpoint_every=1", "progress=none"]
    process = family.start(sys.executable, "run_sim.py", *arguments)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
    process.send_signal(number)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 130, complained
    assert said.splitlines() == [f"interrupted; to go on: python run_sim.py resume={folder}", str(folder)]
    reached = len([json.loads(line) for line in metrics.read_text().splitlines()])
    assert not family.alive()
    assert cli.main(run_sim.run, [f"resume={folder}", f"rounds={reached + 1}", "progress=none"]) == 0
    assert json.loads((folder / "summary.json").read_text())["rounds"] == reached + 1
