"""The command a user types: exit statuses, one-line errors, the run folder."""

import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message

import client_app
import run_sim
from app.checks import check
from app.evaluation import Evaluation
from app.task import build_model
from conf import Config, ConfigError, cli, compose
from echelon.reports.lock import Lock
from echelon.reports.run_folder import RunFolder
from echelon.server import checkpoint
from partitioners import storage
from tasks import load

QUICK = ["engine=inline", "progress=none", "rounds=2", "eval_every=1", "checkpoint_every=1"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stratgy=matcha", "unknown key stratgy; did you mean strategy?"),
        ("rounds=many", "rounds must be an integer; got many"),
        ("strategy=gossip", "strategy must be one of al_dsgd, all_reduce, d_psgd, fedbuff, fedcompass"),
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


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """A partition of 40 samples among 4 workers."""
    labels = np.arange(40) % 2
    storage.save(tmp_path, np.array_split(np.arange(40), 4), labels, [1.0] * 4)
    return tmp_path / "partition.npz"


class TestDataIsCheckedFirst:
    def refuses(self, folder: Path, message: str, *overrides: str) -> None:
        with pytest.raises(ConfigError, match=message):
            check(compose(["topology=ring", f"run_dir={folder / 'run'}", *overrides]))

    def test_a_partition_for_other_data(self, partition: Path) -> None:
        chosen = ("partitioner=file", f"partitioner.path={partition}", "strategy=d_psgd")
        self.refuses(partition.parent, "was made for 40 other samples; there are 1442 now", *chosen)

    def test_a_partition_for_other_workers(self, partition: Path, tmp_path: Path) -> None:
        labels = load("digits").train.y.numpy()
        storage.save(tmp_path, np.array_split(np.arange(len(labels)), 4), labels, [1.0] * 4)
        chosen = ("partitioner=file", f"partitioner.path={partition}", "strategy=d_psgd")
        self.refuses(tmp_path, "was made for 4 workers; there are 8 now", *chosen)
        check(compose(["topology=ring", "workers=4", *chosen]))

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_bytes(b"rank\xff")
        self.refuses(tmp_path, "^fleet.path cannot be read: 'utf-8'", "fleet=trace", f"fleet.path={tmp_path / 't.csv'}")
        self.refuses(tmp_path, "^fleet.path cannot be read: .*Is a directory", "fleet=trace", f"fleet.path={tmp_path}")

    def test_all_of_a_sweep(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        sweep = [*QUICK, "-m", "topology=ring", "workers=4,2000", f"run_dir={tmp_path / 'run'}"]
        assert cli.main(run_sim.run, sweep, check) == 2
        assert "workers must be at most the 1442 training samples" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_server_without_a_gpu_serves_workers_that_have_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        self.refuses(tmp_path, "device=cuda needs a CUDA device", "device=cuda")
        config = compose(["device=cuda"])
        check(config, deployed=True)
        model, test = build_model(config), load("digits", test_limit=20).test
        metrics = Evaluation(config, model, test, test)(1, ArrayRecord(model.state_dict()))
        assert 0 <= float(metrics["accuracy"]) <= 1  # type: ignore[arg-type]


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
    assert (summary["thin_rounds"], summary["empty_attempts"]) == (0, 0)


def test_a_run_that_evaluates_no_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert cli.main(run_sim.run, [*QUICK, "progress=plain", "evaluate_workers=none", f"run_dir={folder}"]) == 0
    assert "Workers' accuracy" in capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["consensus_accuracy"] > 0
    assert summary["worker_accuracy_mean"] is summary["worker_accuracy_min"] is None


class TestFewWorkers:
    """Workers fail from their third round on: in some rounds most of them, or all of them."""

    OVERRIDES = ("engine=inline", "progress=plain", "workers=4", "topology=ring", "partitioner=iid", "eval_every=10")

    def run(self, folder: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, int], bool]) -> int:
        whole, asked = client_app.make_app, Counter[int]()

        def make_app(config: Config) -> Any:
            good = whole(config)

            def app(message: Message, context: Context) -> Message:
                rank = int(context.node_config["partition-id"])
                asked[rank] += message.metadata.message_type == "train"
                if message.metadata.message_type == "train" and fails(rank, asked[rank]):
                    raise OSError("no more power")
                return good(message, context)

            return app

        monkeypatch.setattr(client_app, "make_app", make_app)
        return cli.main(run_sim.run, [*self.OVERRIDES, "rounds=5", f"run_dir={folder}"])

    def test_summary_log_and_last_lines_say_how_many_rounds_were_thin(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "run"
        assert self.run(folder, monkeypatch, lambda rank, asked: asked == 4 or (asked == 3 and rank > 0)) == 0
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["rounds"], summary["thin_rounds"], summary["empty_attempts"]) == (5, 1, 1)
        assert "1 of 5 rounds were thin" in (folder / "run.log").read_text()
        assert "1 (attempts without any worker: 1)" in capsys.readouterr().out

    def test_a_run_that_fails_leaves_a_checkpoint_of_its_last_round(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "run"
        assert self.run(folder, monkeypatch, lambda rank, asked: asked > 2) == 1
        assert "round 3: no worker returned a usable model" in capsys.readouterr().out
        assert checkpoint.load(folder / "checkpoint").round == 2
        assert not (folder / "summary.json").exists()


def command(*arguments: str) -> int:
    return cli.main(run_sim.run, [*arguments, "progress=none"])


class TestOneLine:
    """Faults of the disk end a run in one line, and the last good checkpoint stays."""

    def test_a_folder_in_use(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "run"
        assert command(*QUICK, f"run_dir={folder}") == 0
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        held = Lock(folder)
        capsys.readouterr()
        for arguments in ([f"resume={folder}", "rounds=3"], [*QUICK, f"run_dir={folder}"]):
            assert command(*arguments) == 2
            reason = f"in use by process {os.getpid()}; wait for its end, or stop it"
            assert capsys.readouterr().err == f"error: {folder}: {reason}\n"
        held.release()
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before

    def test_a_log_that_cannot_be_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "run" / "run.log"
        log.mkdir(parents=True)
        assert command(*QUICK, f"run_dir={log.parent}") == 2
        assert capsys.readouterr().err == f"error: {log}: cannot be written: Is a directory\n"

    def test_names_that_no_file_can_have(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        long = tmp_path / ("x" * 300)
        for overrides, line in (
            ([f"run_dir={long}"], f"{long}: cannot be written: File name too long"),
            ([f"resume={long}"], f"resume: {long}/config.yaml: File name too long"),
            (["fleet=trace", f"fleet.path={long}"], f"fleet.path: File name too long: {long}"),
            (["run_dir=a\0b"], r"run_dir must not contain a NUL character; got run_dir=a\x00b"),
            (["resume=a\0b"], r"resume must not contain a NUL character; got resume=a\x00b"),
        ):
            assert command(*QUICK, *overrides) == 2
            assert capsys.readouterr().err == f"error: {line}\n"

    @pytest.mark.parametrize("fault", ["full", "moved"])
    def test_in_the_second_round(
        self, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder, moved = tmp_path / "run", tmp_path / "moved"
        append = RunFolder.append_metrics

        def fail(self: RunFolder, record: dict[str, Any]) -> None:
            if record["round"] == 2 and fault == "moved":
                folder.rename(moved)
            if record["round"] == 2 and fault == "full":
                monkeypatch.setattr("os.fsync", full)
            append(self, record)

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(RunFolder, "append_metrics", fail)
        assert command(*QUICK, f"run_dir={folder}") == 1
        reason = "No space left on device" if fault == "full" else "the folder was moved or removed"
        first, last = capsys.readouterr().out.replace("\n(", " (").splitlines()
        assert first == f"error: {folder}: cannot be written: {reason} (details in {folder / 'run.log'})"
        assert last == str(folder)
        monkeypatch.undo()
        left = moved if fault == "moved" else folder
        assert checkpoint.load(left / "checkpoint").round == 1
        assert command(f"resume={left}") == 0
        assert json.loads((left / "summary.json").read_text())["rounds"] == 2
