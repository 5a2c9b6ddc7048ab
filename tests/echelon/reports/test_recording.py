"""A strategy in a ServerApp of one's own, recorded and continued."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord
from safetensors.torch import load_file

from clients import Device, Fleet, make_client_app
from echelon.engines.inline import InlineGrid
from echelon.reports.recording import Recording
from echelon.reports.run_folder import RunFolder, RunFolderError
from echelon.server.exchange import RunStoppedError
from strategies import ALDSGD, DPSGD, SGD, FedBuff, FlowerStrategy, NonBlocking

SETTINGS = {"strategy": "d_psgd", "optimizer": {"learning_rate": 0.1}}
DEVICES = Fleet((Device(10.0), Device(5.0)))
Make = Callable[..., FlowerStrategy]


def d_psgd(**options: Any) -> FlowerStrategy:
    return DPSGD("ring", work=NonBlocking(batch_size=8, minibatch_size=2), sgd=SGD(0.1, momentum=0.9), **options)


def al_dsgd(**options: Any) -> FlowerStrategy:
    return ALDSGD("ring", sgd=SGD(0.1), **options)


def fedbuff(**options: Any) -> FlowerStrategy:
    return FedBuff(buffer_size=2, sgd=SGD(0.1), **options)


def build() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def grid() -> InlineGrid:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    y = x[:, :3].argmax(1)
    app = make_client_app(lambda rank, workers: (x[rank::workers], y[rank::workers]), build, fleet=DEVICES)
    return InlineGrid(app, 3)


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    return MetricRecord({"accuracy": min(1.0, server_round / 10), "loss": 1.0})


def run(folder: Path, make: Make, rounds: int, **more: Any) -> ArrayRecord:
    with Recording(folder, SETTINGS, every=2) as recording:
        return recording.start(
            make(**recording.options), grid(), ArrayRecord(build().state_dict()), rounds, **more
        ).arrays


def without_time(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "wall_seconds"} for record in RunFolder.open(folder).metrics]


@pytest.mark.parametrize("make", [d_psgd, al_dsgd, fedbuff])
def test_continued_as_if_uninterrupted(make: Make, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", make, 7)
    run(tmp_path / "parts", make, 3)
    parts = run(tmp_path / "parts", make, 7)
    assert all((whole[name].numpy() == parts[name].numpy()).all() for name in whole)
    assert without_time(tmp_path / "whole") == without_time(tmp_path / "parts")


@pytest.mark.parametrize("make", [d_psgd, fedbuff])
def test_stopped_in_mid_run(make: Make, tmp_path: Path) -> None:
    run(tmp_path / "whole", make, 6)
    stop = Event()

    def until_round_3(**options: Any) -> FlowerStrategy:
        def third(record: dict[str, Any], state: Any) -> None:
            if state.round == 3:
                stop.set()

        return make(**options | {"on_round": [*options["on_round"], third], "stop": stop})

    with pytest.raises(RunStoppedError):
        run(tmp_path / "parts", until_round_3, 6)
    assert [path.name[:14] for path in sorted((tmp_path / "parts/checkpoint").iterdir())][-1] == "round-00000003"
    assert not RunFolder.open(tmp_path / "parts").finished
    run(tmp_path / "parts", make, 6)
    assert len(without_time(tmp_path / "parts")) == 6
    for before, after in zip(without_time(tmp_path / "whole"), without_time(tmp_path / "parts"), strict=True):
        assert before["train_loss"] == after["train_loss"]


def test_what_it_leaves(tmp_path: Path) -> None:
    run(tmp_path, d_psgd, 9, evaluate_fn=evaluate, stop_at="consensus_accuracy>=0.5")
    folder = RunFolder.open(tmp_path)
    assert [record["consensus_accuracy"] for record in folder.metrics] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert folder.config == SETTINGS
    assert folder.summary is not None
    assert folder.summary["rounds"] == 5
    models = {path.stem: load_file(path) for path in (tmp_path / "models").iterdir()}
    assert models.keys() == {"consensus", "best_round", "best_worker"}
    assert all(model.keys() == build().state_dict().keys() for model in models.values())
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {"accuracy_loss.png", "timeline.png"}
    json.loads((tmp_path / "environment.json").read_text())


def test_killed_before_the_first_checkpoint_it_starts_again(tmp_path: Path) -> None:
    with Recording(tmp_path, SETTINGS) as recording:
        recording.folder.append_metrics({"round": 1, "virtual_seconds": 1.0, "minibatches": [1, 1, 1]})
    run(tmp_path, d_psgd, 2)
    assert [record["round"] for record in RunFolder.open(tmp_path).metrics] == [1, 2]


def test_refuses_other_settings(tmp_path: Path) -> None:
    run(tmp_path, d_psgd, 2)
    with pytest.raises(
        RunFolderError, match=r"has a run with optimizer=\{'learning_rate': 0.1\}; got optimizer=None: choose"
    ):
        Recording(tmp_path, {"strategy": "d_psgd"})
    Recording(tmp_path, SETTINGS).folder.close()  # the lock was released


def test_refuses_fewer_rounds(tmp_path: Path) -> None:
    run(tmp_path, d_psgd, 4)
    with pytest.raises(ValueError, match=r"num_rounds must be at least 4 to continue .*; got 3"):
        run(tmp_path, d_psgd, 3)


def test_refuses_two_at_once(tmp_path: Path) -> None:
    with Recording(tmp_path, SETTINGS), pytest.raises(RunFolderError, match="in use by process"):
        Recording(tmp_path, SETTINGS)


def test_refuses_no_rounds_between_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every must be at least 1 round; got 0"):
        Recording(tmp_path / "new", every=0)
    assert not (tmp_path / "new").exists()
