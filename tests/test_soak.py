"""The soak in small; and that it notices a broken promise."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import run_sim
from benchmarks.soak import __main__ as soak
from benchmarks.soak.outcomes import load
from benchmarks.soak.promises import every_round_once, same_bits
from benchmarks.soak.target import Target
from benchmarks.soak.targets import TARGETS
from conf import cli
from echelon.server import checkpoint


def called(arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["soak", *arguments.split()])
    return soak.main()


def test_hostile_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind in turn; what the file holds is not repeated."""
    out = tmp_path / "soak.jsonl"
    for count in (2, 3):
        assert called(f"--only hostile --count {count} --out {out}", monkeypatch) == 0
    assert [(outcome.number, outcome.fault) for outcome in load(out)] == [
        (0, "NaN"),
        (1, "infinity"),
        (2, "wrong shape"),
    ]
    assert "| all | | 3 | 3 | 0 |" in capsys.readouterr().out


class Breaking(Target):
    faults = ("kill", "lie")

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder

    def __exit__(self, *exception: object) -> None:
        self.folder.rmdir()

    def suffer(self, fault: str, chance: Random) -> tuple[float, str]:
        return chance.random(), "a round is missing" if fault == "lie" else ""


def test_a_broken_promise_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS, "command", Breaking)
    out = tmp_path / "soak.jsonl"
    assert called(f"--only command --count 4 --out {out}", monkeypatch) == 1
    assert "| command | kill | 2 | 2 | 0 |\n| command | lie | 2 | 0 | 2 |" in capsys.readouterr().out
    again = tmp_path / "again.jsonl"
    called(f"--only command --count 4 --out {again}", monkeypatch)
    assert load(again) == load(out), "the same faults for the same seed"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak") / "whole"
    run = ["engine=inline", "progress=none", "rounds=3", "workers=4", "topology=ring", "partitioner=iid"]
    assert cli.main(run_sim.run, [*run, f"run_dir={folder}"]) == 0
    return folder


def _rewrite(change: Callable[[list[Any]], list[Any]]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        file = run / "metrics.jsonl"
        found = change([json.loads(line) for line in file.read_text().splitlines()])
        file.write_text("".join(f"{json.dumps(record)}\n" for record in found))

    return damage


def _another_bit(run: Path) -> None:
    state = checkpoint.load(run / "checkpoint")
    state.rows.view(np.uint32)[0, 0] ^= 1
    shutil.rmtree(run / "checkpoint")
    checkpoint.save(state, run / "checkpoint")


def _damaged(run: Path) -> None:
    next((run / "checkpoint").glob("*.npz")).write_bytes(b"damaged")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: None, ""),
        (_rewrite(lambda found: [found[0], found[2]]), "round 2 is missing or there twice: line 2 is of round 3"),
        (_rewrite(lambda found: [found[0], *found]), "round 2 is missing or there twice: line 2 is of round 1"),
        (_rewrite(lambda found: found[:2]), "2 of 3 rounds"),
        (_rewrite(lambda found: [*found[:2], found[2] | {"train_loss": 0.5}]), "round 3 has another train_loss"),
        (_another_bit, "the checkpoint has other rows"),
        (_damaged, "resume: every checkpoint in {run}/checkpoint is damaged; the newest is {newest}"),
        (lambda run: (run / "summary.json").unlink(), "there is no summary.json"),
    ],
)
def test_what_is_lost_is_noticed(damage: Callable[[Path], None], said: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    assert every_round_once(run, 3) == ""
    newest = next((run / "checkpoint").glob("*.npz")).name
    damage(run)
    assert same_bits(run, whole) == said.format(run=run, newest=newest)
