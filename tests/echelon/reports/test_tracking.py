import importlib
import importlib.util
import math
import time
from pathlib import Path
from typing import Any

import pytest

from echelon.reports import tracking
from tests.echelon.reports.synthetic import records, summary_of

CONFIG = {"seed": 3, "strategy": {"name": "d_psgd", "c1": 0.3}}


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {module}")


def track(kind: tracking.Kind, folder: Path, *, fails: bool = False) -> list[dict[str, Any]]:
    rows = records("al_dsgd", "non_blocking", 0, rounds=5)
    tracker = tracking.make(kind, folder, CONFIG)
    for row in rows:
        tracker.log(row)
    tracker.close(None if fails else summary_of(rows))
    return rows


def test_scalars_are_numbers_and_the_spread_over_workers() -> None:
    record = {
        "round": 3,
        "train_loss": 0.5,
        "budget_seconds": None,
        "consensus_loss": math.nan,
        "worker_accuracy": [0.25, None, 0.75],
        "idle_share": [None, None],
        "present": [0, 2],
        "leaders_best": [0, 0, 2],
        "edges": [[0, 1]],
        "rejections": {"1": "late"},
        "rejected": 1,
    }
    assert tracking.scalars(record) == {
        "train_loss": 0.5,
        "worker_accuracy/mean": 0.5,
        "worker_accuracy/min": 0.25,
        "worker_accuracy/max": 0.75,
        "rejected": 1.0,
    }


def test_none_does_nothing(tmp_path: Path) -> None:
    track("none", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tracking.TrackingError, match="tracking must be one of none, tensorboard, wandb, mlflow; got x"):
        tracking.make("x", tmp_path, CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_extra_is_named(kind: tracking.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(tracking.TrackingError) as caught:
        tracking.make(kind, tmp_path, CONFIG)
    assert str(caught.value).startswith(
        f"tracking={kind} needs an extra: pip install 'flwr-echelon[{kind}]' (No module"
    )


@needs("tensorboard")
def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    rows = track("tensorboard", tmp_path)
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0})
    events.Reload()

    def series(tag: str) -> list[tuple[int, float]]:
        tensor = importlib.import_module("tensorboard.util.tensor_util").make_ndarray
        return [(event.step, float(tensor(event.tensor_proto))) for event in events.Tensors(tag)]

    losses = series("train_loss")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5]
    assert [value for _, value in losses] == pytest.approx([row["train_loss"] for row in rows])
    ((step, worst),) = series("worker_accuracy/min")
    assert step == 5
    assert worst == pytest.approx(min(rows[4]["worker_accuracy"]))
    assert "edges/mean" not in events.Tags()["tensors"]


@needs("wandb")
@pytest.mark.filterwarnings("default")
def test_wandb_offline_writes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track("wandb", tmp_path)
    (stored,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    words = (b"train_loss", b"worker_accuracy/min", b"d_psgd", b"worker_accuracy_min")
    deadline = time.monotonic() + 20  # its service continues to write after finish()
    while not all(word in stored.read_bytes() for word in words) and time.monotonic() < deadline:
        time.sleep(0.1)
    data = stored.read_bytes()
    assert [word for word in words if word not in data] == []


@needs("mlflow")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("fails", [False, True])
def test_mlflow_offline_reads_back_what_was_logged(tmp_path: Path, fails: bool) -> None:
    mlflow = importlib.import_module("mlflow")
    previous = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        rows = track("mlflow", tmp_path, fails=fails)
        (run,) = mlflow.search_runs(experiment_names=["echelon"], output_format="list")
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    finally:
        mlflow.set_tracking_uri(previous)
    assert [(point.step, point.value) for point in history] == [(row["round"], row["train_loss"]) for row in rows]
    assert run.data.params["strategy.c1"] == "0.3"
    assert run.info.status == ("FAILED" if fails else "FINISHED")
    assert ("final/consensus_accuracy" in run.data.metrics) == (not fails)
