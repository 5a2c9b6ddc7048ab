"""The command a user types: exit statuses, one-line errors, the run folder."""

import errno
import json
import os
import signal
import sys
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
from conf import Config, ConfigError, cli, compose, config_hash, from_yaml
from echelon.reports.lock import Lock
from echelon.reports.run_folder import RunFolder
from echelon.server import checkpoint
from partitioners import storage
from tasks import load
from tests.processes import Family, wait_for

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
        chosen = ("partitioner=file", f"partitioner.path={partition}")
        self.refuses(partition.parent, "was made for 40 other samples; there are 1442 now", *chosen)

    def test_a_partition_for_other_workers(self, partition: Path, tmp_path: Path) -> None:
        labels = load("digits").train.y.numpy()
        storage.save(tmp_path, np.array_split(np.arange(len(labels)), 4), labels, [1.0] * 4)
        chosen = ("partitioner=file", f"partitioner.path={partition}")
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


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli.main(run_sim.run, [*QUICK, "rounds=4", f"run_dir={whole}"]) == 0
    assert cli.main(run_sim.run, [*QUICK, "rounds=2", f"run_dir={broken}"]) == 0
    assert cli.main(run_sim.run, [f"resume={broken}", "rounds=4", "progress=none"]) == 0
    capsys.readouterr()

    def losses(folder: Path) -> list[float]:
        return [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert losses(broken) == losses(whole)


def command(*arguments: str) -> int:
    return cli.main(run_sim.run, [*arguments, "progress=none"])


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


class TestResumed:
    """A run of two rounds, the second evaluated, with a checkpoint of each."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        assert command(*QUICK, f"run_dir={tmp_path / 'run'}") == 0
        return tmp_path / "run"

    def test_the_folder_says_how_it_went_on(self, folder: Path) -> None:
        assert command(f"resume={folder}", "rounds=3", "learning_rate=0.5") == 0
        config = from_yaml((folder / "config.yaml").read_text())
        assert (config.rounds, config.learning_rate) == (3, 0.5)
        assert (config.run_dir, config.resume) == (str(folder), None)
        assert summary_of(folder)["config_hash"] == config_hash(config)

    def test_fewer_rounds_than_there_are(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert command(f"resume={folder}", "rounds=1") == 2
        assert capsys.readouterr().err == f"error: rounds must be at least 2, which {folder} has reached; got 1\n"
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before

    def test_nothing_left_to_do(self, folder: Path) -> None:
        before = summary_of(folder)
        assert command(f"resume={folder}") == 0
        assert summary_of(folder) == before

    def test_nothing_left_to_do_but_to_evaluate(self, tmp_path: Path) -> None:
        folder = tmp_path / "long"
        assert command(*QUICK, "rounds=4", "eval_every=4", "checkpoint_keep=9", f"run_dir={folder}") == 0
        for late in (folder / "checkpoint").glob("round-0000000[34]*"):
            late.unlink()
        assert command(f"resume={folder}", "rounds=2") == 0
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert "worker_accuracy" not in records[0]
        assert len(records[1]["worker_accuracy"]) == 8
        assert summary_of(folder)["rounds"] == 2
        assert summary_of(folder)["consensus_accuracy"] == records[1]["consensus_accuracy"]

    def test_the_last_round_is_saved_too(self, tmp_path: Path) -> None:
        folder = tmp_path / "long"
        assert command(*QUICK, "checkpoint_every=25", f"run_dir={folder}") == 0
        assert command(f"resume={folder}", "rounds=3") == 0
        assert summary_of(folder)["rounds"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_go_on(number: signal.Signals, tmp_path: Path) -> None:
    folder, family = tmp_path / "run", Family()
    arguments = ["engine=inline", f"run_dir={folder}", "rounds=100000", "checkpoint_every=1000", "progress=none"]
    process = family.start(sys.executable, "run_sim.py", *arguments)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
    process.send_signal(number)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert complained == "stopping ...\n"
    assert said.splitlines() == [f"interrupted; to continue: python run_sim.py resume={folder}", str(folder)]
    reached = len([json.loads(line) for line in metrics.read_text().splitlines()])
    assert not family.alive()
    assert cli.main(run_sim.run, [f"resume={folder}", f"rounds={reached + 1}", "progress=none"]) == 0
    assert json.loads((folder / "summary.json").read_text())["rounds"] == reached + 1


def test_an_interrupted_run_without_a_checkpoint(tmp_path: Path) -> None:
    folder, family = tmp_path / "run", Family()
    arguments = ["engine=inline", f"run_dir={folder}", "rounds=100000", "checkpoint_every=0", "progress=none"]
    process = family.start(sys.executable, "run_sim.py", *arguments)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 1)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 130, complained
    assert said.splitlines()[0] == "interrupted; there is no checkpoint to continue from (checkpoint_every=0)"


class TestResumedFromItsOwnConfiguration:
    """A FedBuff run of one round among the default strategy's keys."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        chosen = ["workers=4", "topology=ring", "partitioner=iid", "strategy=fedbuff", "rounds=1"]
        assert command(*QUICK, *chosen, f"run_dir={tmp_path / 'run'}") == 0
        return tmp_path / "run"

    def test_with_a_key_of_its_strategy(self, folder: Path) -> None:
        assert command(f"resume={folder}", "rounds=2", "strategy.buffer_size=2") == 0
        config = from_yaml((folder / "config.yaml").read_text())
        assert (config.strategy.name, config.strategy.buffer_size) == ("fedbuff", 2)  # type: ignore[attr-defined]
        assert summary_of(folder)["rounds"] == 2

    def test_what_must_stay_is_refused_by_key(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for override, line in (
            ("strategy=d_psgd", "strategy must stay fedbuff in a resumed run; got d_psgd"),
            ("workers=8", "workers must stay 4 in a resumed run; got 8"),
            ("strategy.c1=0.1", "unknown key strategy.c1 of strategy=fedbuff; it belongs to strategy=al_dsgd"),
            ("run_dir=x", f"run_dir must not be set with resume={folder}, the folder of the resumed run; got x"),
        ):
            assert command(f"resume={folder}", override) == 2
            assert capsys.readouterr().err == f"error: {line}\n"

    def test_a_damaged_file_is_named(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("config.yaml", "metrics.jsonl", "summary.json", "checkpoint"):
            path = next((folder / name).glob("*")) if name == "checkpoint" else folder / name
            whole = path.read_bytes()
            path.write_bytes(b"\xff{\n")
            assert command(f"resume={folder}") == 2
            said = capsys.readouterr().err.splitlines()
            assert said[-1].startswith(f"error: {'resume: ' if path.parent != folder or name == 'config.yaml' else ''}")
            assert name in said[-1]
            path.write_bytes(whole)
        assert command(f"resume={folder}") == 0


class TestKilledBeforeItsFirstCheckpoint:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """The folder of a run of two rounds whose first checkpoint was due after them."""
        folder = tmp_path / "run"
        assert command(*QUICK, "checkpoint_every=5", f"run_dir={folder}") == 0
        (folder / "summary.json").unlink()
        for path in (folder / "checkpoint").iterdir():
            path.unlink()
        return folder

    def test_it_is_resumed_from_the_start(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (folder / "metrics.jsonl").read_text().splitlines()
        (folder / "partition.npz").write_bytes(b"cut off")
        capsys.readouterr()
        assert command(f"resume={folder}") == 0
        assert capsys.readouterr().err == f"{folder} has no checkpoint yet: the run starts again\n"
        after = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["train_loss"] for line in after] == [json.loads(line)["train_loss"] for line in before]

    def test_or_started_again_if_there_is_no_record(self, folder: Path) -> None:
        (folder / "metrics.jsonl").write_bytes(b"")
        assert command(*QUICK, f"run_dir={folder}") == 0
        assert summary_of(folder)["rounds"] == 2

    def test_records_that_no_checkpoint_will_ever_reach_are_kept(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("checkpoint_every: 5", "checkpoint_every: 0"))
        assert command(f"resume={folder}") == 2
        assert "run with checkpoint_every above 0" in capsys.readouterr().err
        assert (folder / "metrics.jsonl").read_text().count("\n") == 2


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
        assert summary_of(left)["rounds"] == 2
