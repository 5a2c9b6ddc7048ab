"""A run that is killed at any moment continues from its last checkpoint and ends with the bits of an unbroken one."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from random import Random
from threading import Event

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

import client_app
import run_sim
import server_app
from conf import cli, compose
from echelon.engines.inline import InlineGrid
from echelon.reports import progress
from echelon.server import checkpoint
from strategies import RunStoppedError, ServerState
from tests.processes import Family, wait_for

ROUNDS = 40
RUN = [
    *("engine=inline", "progress=none", f"rounds={ROUNDS}", "eval_every=1", "checkpoint_every=1", "workers=4"),
    *("topology=ring", "partitioner=iid", "strategy=al_dsgd", "strategy.base=matcha", "strategy.signal=ema"),
]
KILLS = 10


def rounds_of(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def reached(folder: Path, rounds: int) -> bool:
    return rounds_of(folder) >= rounds


def told(folder: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "wall_seconds"} for record in records]


@pytest.mark.timeout(600)
def test_killed_ten_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken, family, chance = tmp_path / "whole", tmp_path / "broken", Family(), Random(0)
    assert cli.main(run_sim.run, [*RUN, f"run_dir={whole}"]) == 0
    capsys.readouterr()
    for kill in range(KILLS):
        arguments = [*RUN, f"run_dir={broken}"] if kill == 0 else [f"resume={broken}", "progress=none"]
        process = family.start(sys.executable, "run_sim.py", *arguments)
        wanted = rounds_of(broken) + chance.randint(1, 2)
        wait_for(partial(reached, broken, wanted))
        # Somewhere within a round of some milliseconds: in training, in writing metrics or a checkpoint.
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.communicate()
        assert rounds_of(broken) < ROUNDS, "it was killed before its end"
    assert cli.main(run_sim.run, [f"resume={broken}", "progress=none"]) == 0
    np.testing.assert_array_equal(
        checkpoint.load(broken / "checkpoint").rows, checkpoint.load(whole / "checkpoint").rows, strict=True
    )
    assert json.dumps(told(broken)) == json.dumps(told(whole))


class StoppingGrid(InlineGrid):
    """Sets ``stop`` after so many messages: somewhere within a round."""

    stop: Event
    left: int

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.left -= 1
        if self.left == 0:
            self.stop.set()
        return super().push_messages(messages)


@pytest.mark.parametrize("messages", [16, 19, 26])  # at 26 FedBuff has half a step done
@pytest.mark.parametrize(
    "strategy", ["al_dsgd", "all_reduce engine.batched=true", "fedbuff", "fedcompass work=full_batch"]
)
def test_stopped_within_a_round(strategy: str, messages: int, tmp_path: Path) -> None:
    overrides = [*RUN[:6], "topology=ring", *f"strategy={strategy}".split(), "rounds=8", "checkpoint_every=1000"]
    whole = compose([*overrides, f"run_dir={tmp_path / 'whole'}"])
    assert run_sim.run(whole) == 0

    config, stop = compose([*overrides, f"run_dir={tmp_path / 'broken'}"]), Event()
    grid = StoppingGrid(client_app.make_app(config), config.workers)
    grid.stop, grid.left = stop, messages
    with server_app.open_folder(config, tmp_path / "broken") as folder, pytest.raises(RunStoppedError):
        server_app.run(config, grid, folder, progress.make("none"), stop)
    reached = rounds_of(folder.path)
    assert 0 < reached < 8
    assert checkpoint.load(folder.path / "checkpoint").round == reached

    assert cli.main(run_sim.run, [f"resume={folder.path}", "progress=none"]) == 0
    assert json.dumps(told(folder.path)) == json.dumps(told(tmp_path / "whole"))


@pytest.mark.parametrize(("failed", "hint"), [(1, "there is no checkpoint yet; to start again"), (3, "to continue")])
def test_a_server_app_says_how_to_continue(
    failed: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full when the checkpoint of a round is written; Flower itself would show a traceback alone."""
    path, save = tmp_path / "run", checkpoint.save

    def full(state: ServerState, folder: Path, keep: int) -> Path:
        if state.round == failed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(state, folder, keep)

    monkeypatch.setattr(checkpoint, "save", full)
    overrides = [*RUN[:6], "topology=ring", "rounds=4", f"run_dir={path}"]
    grid = InlineGrid(client_app.make_app(compose(overrides)), 4)
    context = Context(1, 0, {}, RecordDict(), {"overrides": " ".join(overrides)})
    with pytest.raises(checkpoint.CheckpointError):
        server_app.main(grid, context)
    why = f"{path}/checkpoint: the checkpoint of round {failed} cannot be written: No space left on device"
    said = f"error: {why}; {hint}: submit the run with its overrides and resume={path}"
    assert caplog.messages.count(said) == 1


def test_what_killed_saves_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "round-00000007-0123456789abcdef.tmp").touch()
    path = checkpoint.save(ServerState.initial(np.zeros(3, dtype=np.float32), 2, 0), tmp_path)
    assert list(tmp_path.iterdir()) == [path]
