"""The command a user types, after the run was stopped, killed or has ended: what goes on, and what is refused."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import run_sim
from conf import cli, config_hash, from_yaml
from tests.processes import Family, wait_for

QUICK = ["engine=inline", "progress=none", "rounds=2", "eval_every=1", "checkpoint_every=1"]


def command(*arguments: str) -> int:
    return cli.main(run_sim.run, [*arguments, "progress=none"])


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli.main(run_sim.run, [*QUICK, "rounds=4", f"run_dir={whole}"]) == 0
    assert cli.main(run_sim.run, [*QUICK, "rounds=2", f"run_dir={broken}"]) == 0
    assert cli.main(run_sim.run, [f"resume={broken}", "rounds=4", "progress=none"]) == 0
    capsys.readouterr()

    def losses(folder: Path) -> list[float]:
        return [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert losses(broken) == losses(whole)


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
