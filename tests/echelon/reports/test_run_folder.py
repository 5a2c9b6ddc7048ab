import errno
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echelon.reports.run_folder import RunFolder, RunFolderError
from tests.repository import ROOT

CONFIG = "seed: 1\nstrategy:\n  name: d_psgd\n  c1: 1e-3\n"


def row(number: int) -> dict[str, Any]:
    return {"round": number, "virtual_seconds": 2.0 * number, "minibatches": [8, 8]}


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a" / "b", CONFIG)
    folder.append_metrics(row(1) | {"train_loss": np.float32(0.5), "minibatches": np.array([8, 4])})
    folder.append_metrics(
        row(2) | {"train_loss": math.nan, "worker_accuracy": [math.inf, None, 0.25], "by_rank": {4: 5.0}}
    )
    folder.write_summary({"rounds": 2, "train_loss": math.nan})
    read = RunFolder.open(folder.path)
    assert read.metrics == [
        row(1) | {"train_loss": 0.5, "minibatches": [8, 4]},
        row(2) | {"train_loss": None, "worker_accuracy": [None, None, 0.25], "by_rank": {"4": 5.0}},
    ]
    assert read.summary == {"rounds": 2, "train_loss": None}
    assert read.config == {"seed": 1, "strategy": {"name": "d_psgd", "c1": 0.001}}
    assert (folder.path / "config.yaml").read_text() == CONFIG


def test_environment_names_what_the_run_ran_on(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["packages"]["numpy"] == np.__version__
    assert environment["cpu_count"] >= 1
    assert {"platform", "cpu", "memory_bytes", "gpus", "git_commit"} <= environment.keys()
    assert RunFolder.open(tmp_path).environment == environment


def test_a_run_without_summary_is_readable_and_unfinished(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.append_metrics(row(1))
    read = RunFolder.open(tmp_path)
    assert not read.finished
    assert read.metrics == [row(1)]
    folder.write_summary({"rounds": 1})
    assert RunFolder.open(tmp_path).finished


def test_a_last_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.append_metrics(row(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round":2,"train_lo')
    assert RunFolder.open(tmp_path).metrics == [row(1)]


def test_a_killed_writer_leaves_whole_records(tmp_path: Path) -> None:
    program = (
        "import sys; from echelon.reports.run_folder import RunFolder\n"
        "f = RunFolder.create(sys.argv[1], 'seed: 1\\n'); r = 0\n"
        "while True: r += 1; f.append_metrics({'round': r, 'virtual_seconds': r, 'minibatches': list(range(500))})"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 30
    while (not metrics.exists() or metrics.stat().st_size < 100_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    writer.kill()
    writer.wait()
    rounds = [record["round"] for record in RunFolder.open(tmp_path).metrics]
    assert rounds == list(range(1, len(rounds) + 1))
    assert len(rounds) > 10


def test_resume_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    for number in range(1, 6):
        folder.append_metrics(row(number))
    folder.write_summary({"rounds": 5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round":6,')
    folder.close()
    resumed = RunFolder.resume(tmp_path)
    resumed.rewind(3, "rounds: 9\n")
    resumed.append_metrics(row(4) | {"again": True})
    read = RunFolder.open(tmp_path)
    assert read.metrics == [row(1), row(2), row(3), row(4) | {"again": True}]
    assert not read.finished
    assert read.config == {"rounds": 9}
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl does not reach round 9 of the checkpoint"):
        resumed.rewind(9, CONFIG)
    assert RunFolder.open(tmp_path).config == {"rounds": 9}


def test_the_last_record_can_be_amended(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    for number in (1, 2):
        folder.append_metrics(row(number))
    assert folder.amend_last({"worker_accuracy": np.array([0.5])}) == row(2) | {"worker_accuracy": [0.5]}
    folder.append_metrics(row(3))
    assert RunFolder.open(tmp_path).metrics == [row(1), row(2) | {"worker_accuracy": [0.5]}, row(3)]


class TestBadFolders:
    def test_missing(self, tmp_path: Path) -> None:
        self.refuses(tmp_path / "none", "no such folder")

    def test_empty(self, tmp_path: Path) -> None:
        self.refuses(tmp_path, "empty folder, not a run")

    def test_foreign(self, tmp_path: Path) -> None:
        (tmp_path / "holiday.jpg").touch()
        self.refuses(tmp_path, "not a run folder: config.yaml and metrics.jsonl missing")

    def test_broken_line_in_the_middle(self, tmp_path: Path) -> None:
        RunFolder.create(tmp_path, CONFIG)
        good = json.dumps(row(1))
        for line, fault in (
            ('{"round": 1,', "broken: "),
            ('{"round": 2}', "not the record of a round"),
            ("[]", "not the record of a round"),
            ("7", "not the record of a round"),
        ):
            (tmp_path / "metrics.jsonl").write_text(f"{good}\n{line}\n{good}\n")
            self.refuses(tmp_path, f"metrics.jsonl line 2 is {fault}")

    def test_broken_config(self, tmp_path: Path) -> None:
        RunFolder.create(tmp_path, "a: [1\nb: {")
        self.refuses(tmp_path, "config.yaml cannot be read: ")
        (tmp_path / "config.yaml").write_text("- 1\n")
        self.refuses(tmp_path, "config.yaml must contain a mapping")

    def test_broken_summary(self, tmp_path: Path) -> None:
        RunFolder.create(tmp_path, CONFIG)
        (tmp_path / "summary.json").write_text("{")
        self.refuses(tmp_path, "summary.json cannot be read: ")
        (tmp_path / "summary.json").write_text("[]")
        self.refuses(tmp_path, "summary.json must contain a mapping")

    def test_create_spares_another_run(self, tmp_path: Path) -> None:
        with RunFolder.create(tmp_path, CONFIG) as folder:
            folder.append_metrics(row(1))
        with pytest.raises(RunFolderError, match="already contains a run"):
            RunFolder.create(tmp_path, "seed: 2\n")
        assert RunFolder.open(tmp_path).config["seed"] == 1

    def test_create_takes_a_folder_whose_run_was_killed_before_its_first_record(self, tmp_path: Path) -> None:
        with RunFolder.create(tmp_path, CONFIG), pytest.raises(RunFolderError, match="in use by process"):
            RunFolder.create(tmp_path, CONFIG)
        RunFolder.create(tmp_path, "seed: 2\n")
        assert RunFolder.open(tmp_path).config == {"seed": 2}

    def test_create_where_it_cannot(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RunFolderError, match="cannot be written: Not a directory"):
            RunFolder.create(tmp_path / "file" / "run", CONFIG)
        with pytest.raises(RunFolderError, match="cannot be written: File name too long"):
            RunFolder.create(tmp_path / ("x" * 300), CONFIG)
        self.refuses(tmp_path / ("x" * 300), "File name too long")

    @staticmethod
    def refuses(path: Path, message: str) -> None:
        with pytest.raises(RunFolderError) as caught:
            RunFolder.open(path)
        assert str(caught.value).startswith(f"{path}: {message}")
        assert "\n" not in str(caught.value)


class TestFaultsOfTheDisk:
    """Every failure is one line that names the folder; what was written stays."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[RunFolder]:
        with RunFolder.create(tmp_path / "run", CONFIG) as folder:
            folder.append_metrics(row(1))
            yield folder

    def test_a_folder_that_is_moved(self, folder: RunFolder, tmp_path: Path) -> None:
        folder.path.rename(tmp_path / "moved")
        moved = f"{folder.path}: cannot be written: the folder was moved or removed"
        writes: list[Callable[[], None]] = [
            lambda: folder.append_metrics(row(2)),
            lambda: folder.write_summary({"rounds": 1}),
            folder.sync_metrics,
        ]
        for write in writes:
            with pytest.raises(RunFolderError) as caught:
                write()
            assert str(caught.value) == moved
        assert not folder.path.exists()
        assert RunFolder.open(tmp_path / "moved").metrics == [row(1)]

    def test_a_full_disk(self, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(RunFolderError, match=r"run: cannot be written: No space left on device$"):
            folder.write_summary({"rounds": 1})
        assert not list(folder.path.glob("*.tmp"))
        with pytest.raises(RunFolderError, match=r"run: cannot be written: No space left on device$"):
            folder.rewind(1, "seed: 2\n")
        monkeypatch.undo()
        read = RunFolder.open(folder.path)
        assert (read.metrics, read.config["seed"], read.finished) == ([row(1)], 1, False)
