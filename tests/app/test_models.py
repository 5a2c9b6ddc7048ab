"""Models as files: what a run writes, and what it may start from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import client_app
import server_app
import tasks
from app.checks import check
from app.task import build_model, initial_model, load_task
from conf import Config, ConfigError, compose, recompose, saved
from echelon.engines.inline import InlineGrid
from echelon.reports import progress
from echelon.reports.run_folder import RunFolder

SMALL = ("engine=inline", "workers=3", "topology=ring", "rounds=6", "eval_every=2", "task.train_limit=300", "seed=3")


def run(config: Config, path: Path) -> RunFolder:
    with server_app.open_folder(config, path) as folder:
        server_app.run(config, InlineGrid(client_app.make_app(config), config.workers), folder, progress.make("none"))
    return RunFolder.open(path)


def said(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


@pytest.mark.parametrize("strategy", ["d_psgd", "all_reduce", "fedbuff"])
def test_what_a_run_leaves(strategy: str, tmp_path: Path) -> None:
    config = compose([*SMALL, f"strategy={strategy}"])
    folder = run(config, tmp_path / "run")
    task, models = load_task(config, None), folder.path / "models"
    best = max((r for r in folder.metrics if "consensus_accuracy" in r), key=lambda r: r["consensus_accuracy"])
    last = folder.metrics[-1]
    expected = {
        "consensus": (last["consensus_accuracy"], last["round"]),
        "best_worker": (max(last["worker_accuracy"]), last["round"]),
        "best_round": (best["consensus_accuracy"], best["round"]),
    }
    assert {path.stem for path in models.iterdir()} == set(expected)
    for name, (accuracy, number) in expected.items():
        model = build_model(config)
        model.load_state_dict(load_file(models / f"{name}.safetensors"))
        assert tasks.evaluate(model, task.test)[1] == pytest.approx(accuracy, abs=1e-6)
        assert said(models / f"{name}.safetensors")["round"] == str(number)
    assert said(models / "best_worker.safetensors")["rank"] == str(
        last["worker_accuracy"].index(max(last["worker_accuracy"]))
    )


def test_a_run_starts_from_one_with_other_workers(tmp_path: Path) -> None:
    first = run(compose(SMALL), tmp_path / "first")
    file = first.path / "models" / "consensus.safetensors"
    config = compose([*SMALL, f"model.init={file}", "workers=5", "rounds=1", "eval_every=1", "learning_rate=1e-9"])
    again = run(config, tmp_path / "again")
    assert again.metrics[-1]["consensus_accuracy"] == pytest.approx(first.metrics[-1]["consensus_accuracy"], abs=1e-6)


def test_it_is_not_needed_to_resume(tmp_path: Path) -> None:
    file = tmp_path / "start.safetensors"
    save_file(build_model(compose(["seed=9"])).state_dict(), file)
    run(compose([*SMALL, f"model.init={file}", "rounds=2", "checkpoint_every=1"]), tmp_path / "run")
    file.unlink()
    config = recompose(saved(str(tmp_path / "run")), [f"resume={tmp_path / 'run'}", "rounds=4"])
    check(config)
    assert len(run(config, tmp_path / "run").metrics) == 4


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda state: state.pop("1.bias"), r"is of another model: 1.bias must be \(\d+,\); got none"),
        (lambda state: state.update(more=torch.zeros(2)), r"is of another model: more must be none; got \(2,\)"),
        (lambda state: state.update({"1.bias": torch.zeros(2)}), r"1.bias must be \(\d+,\); got \(2,\)"),
    ],
)
def test_the_file_of_another_model(change: Any, line: str, tmp_path: Path) -> None:
    state = build_model(compose()).state_dict()
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=f"model.init: .*{line}"):
        check(compose([f"model.init={tmp_path / 'other.safetensors'}"]))


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\xff" * 64])
def test_no_file_of_a_model(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.init: .* cannot be read as safetensors: ") as caught:
        initial_model(compose([f"model.init={path}"]))
    assert "\n" not in str(caught.value)


class TestStopAt:
    def test_the_round_is_evaluated_and_can_be_resumed(self, tmp_path: Path) -> None:
        """A condition that a round without an evaluation meets."""
        whole = run(compose([*SMALL, "checkpoint_every=4"]), tmp_path / "whole")
        loss = whole.metrics[2]["train_loss"]
        config = compose([*SMALL, "checkpoint_every=4", f"stop_at=train_loss<={loss}"])
        stopped = run(config, tmp_path / "stopped")
        number = next(r["round"] for r in whole.metrics if r["train_loss"] <= loss)
        assert len(stopped.metrics) == number == stopped.summary["rounds"]  # type: ignore[index]
        assert stopped.metrics[-1]["consensus_accuracy"] == stopped.summary["consensus_accuracy"]  # type: ignore[index]
        resumed = recompose(saved(str(stopped.path)), [f"resume={stopped.path}"])
        assert len(run(resumed, stopped.path).metrics) == number, "it meets the condition already"
        resumed = recompose(saved(str(stopped.path)), [f"resume={stopped.path}", "stop_at=null"])
        records = run(resumed, stopped.path).metrics
        assert [r["train_loss"] for r in records] == [r["train_loss"] for r in whole.metrics]

    def test_a_number_of_the_last_round_is_not_taken_for_this_one(self, tmp_path: Path) -> None:
        """The accuracy of an evaluated round says nothing of the next one."""
        whole = run(compose(SMALL), tmp_path / "whole")
        accuracy = whole.metrics[3]["consensus_accuracy"]
        stopped = run(compose([*SMALL, f"stop_at=consensus_accuracy>={accuracy}"]), tmp_path / "stopped")
        assert len(stopped.metrics) % 2 == 0
        assert json.loads((stopped.path / "summary.json").read_text())["consensus_accuracy"] >= accuracy
