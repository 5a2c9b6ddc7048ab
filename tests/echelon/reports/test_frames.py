"""Runs as pandas frames."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from echelon.reports import frames
from echelon.reports.run_folder import RunFolder, RunFolderError
from tests.repository import ROOT


def test_a_row_per_round(run: RunFolder) -> None:
    frame = frames.rounds(run)
    assert frame.index.tolist() == list(range(1, 31))
    assert frame["train_loss"].tolist() == [record["train_loss"] for record in run.metrics]
    assert frame["present"].tolist() == [len(record["present"]) for record in run.metrics]
    assert frame["consensus_accuracy"].notna().sum() == 6
    assert not {"edges", "rejections", "minibatches"} & set(frame.columns)


def test_a_row_per_round_and_worker(run: RunFolder) -> None:
    frame = frames.workers(str(run.path))
    assert frame.index.names == ["round", "rank"]
    third = frame.loc[3]
    assert third["minibatches"].tolist() == run.metrics[2]["minibatches"]
    assert third["leaders_best"].tolist() == run.metrics[2]["leaders_best"]
    fourth = frame.loc[4]
    assert fourth["present"].tolist() == [rank != 5 for rank in range(8)]
    assert fourth["samples"].isna().tolist() == [rank == 5 for rank in range(8)]
    assert frame.loc[5, "worker_accuracy"].tolist() == pytest.approx(run.metrics[4]["worker_accuracy"], rel=1e-5)


def test_a_run_without_a_round_and_no_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "rounds: 9\n")
    run.close()
    assert (len(frames.rounds(run)), len(frames.workers(run))) == (0, 0)
    with pytest.raises(RunFolderError, match="no such folder"):
        frames.rounds(tmp_path / "none")


def test_the_documented_example(run: RunFolder) -> None:
    section = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8").split("## Frames\n")[1]
    example = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0]
    program = re.sub(r'run = ".*"', f"run = {str(run.path)!r}", example)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "idle_share" in done.stdout


def test_without_pandas_the_remedy_is_named(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for function in (frames.rounds, frames.workers):
        with pytest.raises(ModuleNotFoundError, match=r"frames need an extra: pip install 'flwr-echelon\[pandas\]'"):
            function(run)
