import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from echelon.reports.__main__ import main
from echelon.reports.run_folder import RunFolder
from tests.repository import ROOT


@pytest.fixture
def sweep(tmp_path: Path, make_run: Callable[..., RunFolder]) -> Path:
    for seed in range(2):
        make_run(tmp_path / "sweep" / f"a{seed}", "d_psgd", "full_batch", seed, rounds=5)
        make_run(tmp_path / "sweep" / f"b{seed}", "d_psgd", "non_blocking", seed, rounds=5, finished=False)
    return tmp_path / "sweep"


def test_show_prints_the_result_and_writes_figures(
    tmp_path: Path, make_run: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", rounds=5)
    assert main(["show", str(run.path), "--csv"]) == 0
    out = capsys.readouterr().out
    assert run.summary is not None
    assert f"{100 * run.summary['consensus_accuracy']:.1f} %" in out
    assert "Last: round 5/5" in out
    figures = [Path(line) for line in out.splitlines() if line.endswith(".png")]
    assert {path.stem for path in figures} == {
        "accuracy_loss",
        "timeline",
        "consensus",
        "graph",
        "leaders",
        "partition",
    }
    for path in figures:
        assert path.parent == run.path / "figures"
        assert path.read_bytes().startswith(b"\x89PNG")
    assert (run.path / "metrics.csv").read_text().count("\n") == 6


def test_show_says_that_a_run_is_unfinished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(tmp_path / "run", "rounds: 9\nworkers: 2\n")
    assert main(["show", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'}: unfinished, 0 of 9 rounds\n"


def test_compare_writes_page_figures_and_csv(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert (
        main(["compare", str(sweep), "--out", str(out), "--loss", "1.5", "--baseline", str(sweep / "b1"), "--csv"]) == 0
    )
    names = {"index.html", "curves.png", "times.png", "activity.png", "comparison.csv", "metrics.csv"}
    assert {path.name for path in out.iterdir()} == names
    printed = capsys.readouterr().out
    assert printed.endswith(f"{out / 'index.html'}\n")
    assert "Time to training" in printed
    assert "<strong>non_blocking</strong>" in (out / "index.html").read_text()


def test_compare_leaves_out_runs_without_a_round(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(sweep / "c", "seed: 1\n")
    assert main(["compare", str(sweep)]) == 0
    assert capsys.readouterr().err == f"skipped {sweep / 'c'}: no finished round yet\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{}/none"], "{}/none: no such folder"),
        (["show", "{}/empty"], "{}/empty: empty folder, not a run"),
        (["compare", "{}/sweep", "{}/foreign"], "{}/foreign: not a run folder: config.yaml and metrics.jsonl missing"),
        (["compare", "{}/sweep", "--accuracy", "90"], "--accuracy must lie in (0, 1]; got 90.0"),
        (["compare", "{}/sweep", "--loss", "nan"], "--loss must be positive; got nan"),
        (["compare", "{}/sweep", "--csv"], "--csv needs --out"),
        (["compare", "{}/sweep", "--out", "{}/sweep/a0/config.yaml"], "File exists"),
        (["compare", "{}/new"], "no run has a finished round"),
        (["compare", "{}/sweep", "--baseline", "x"], "baseline must be one of the runs or of"),
    ],
)
def test_bad_input_ends_in_one_line_and_status_2(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").touch()
    RunFolder.create(tmp_path / "new", "seed: 1\n")
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert message.format(tmp_path) in errors[-1]
    assert errors[-1].startswith("python -m echelon.reports: ")
    assert len(errors) == (2 if "{}/new" in arguments else 1)


def test_a_wrong_command_ends_in_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "echelon.reports", "frobnicate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "invalid choice: 'frobnicate'" in done.stderr
