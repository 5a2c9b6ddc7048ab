"""A run that is killed at any moment goes on from its last checkpoint and ends with the bits of an unbroken one."""

import json
import sys
import time
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest

import run_sim
from conf import cli
from strategies import checkpoint
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
