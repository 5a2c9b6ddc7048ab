"""CONTRIBUTING's steps for a strategy, a partitioner and a task, carried out as printed in a copy of the repository."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echelon.reports.run_folder import RunFolder
from tests.repository import ROOT, copy_repository

_SECTION = re.compile(r"^## Adding a (\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"```(python|diff|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)
SECTIONS = dict(_SECTION.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


def follow(section: str, root: Path) -> None:
    """Write the files of a section's blocks, and apply its diffs."""
    for kind, name, content in _BLOCK.findall(SECTIONS[section]):
        path = root / name
        if kind != "diff":
            assert not path.exists()
            path.write_text(content, encoding="utf-8")
            continue
        lines = content.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} must contain once:\n{old}"
        path.write_text(text.replace(old, new), encoding="utf-8")


def call(root: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def simulate(root: Path, *overrides: str) -> list[dict[str, Any]]:
    common = ("engine=inline", "progress=none", "rounds=4", "eval_every=4", "run_dir=out")
    call(root, "run_sim.py", *common, *overrides)
    return RunFolder.open(root / "out").metrics


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    copy_repository(tmp_path)
    return tmp_path


def test_sections_are_complete() -> None:
    assert list(SECTIONS) == ["strategy", "partitioner", "task"]


@pytest.mark.timeout(600)
def test_a_strategy(copy: Path) -> None:
    """The planted strategy does what its matrix says, in a run from the configuration and under contract."""
    follow("strategy", copy)
    records = simulate(copy, "strategy=pairs", "strategy.weight=0.25", "workers=5")
    odd, even = [[0, 1], [2, 3]], [[1, 2], [3, 4]]
    assert [record["edges"] for record in records] == [odd, even, odd, even]
    program = (
        "import numpy as np; from strategies import REGISTRY, Partition; from tests.strategies import scripted;"
        "s = REGISTRY['pairs'](0.25, partition=Partition(), eval_every=9);"
        "script = scripted.Script((4.0, 8.0, 16.0));"
        "s.start(scripted.grid(script), scripted.model(), 2, evaluate_fn=lambda r, a: None);"
        "print(s.state.rows[:, 0].tolist())"
    )
    x = np.zeros(3)
    for pair in ([0, 1], [1, 2]):
        x = (x + np.array([4.0, 8.0, 16.0])) / 2
        x[pair] = 0.75 * x[pair] + 0.25 * x[pair[::-1]]
    assert json.loads(call(copy, "-c", program)) == pytest.approx(x.tolist(), rel=1e-6)
    assert "strategy.weight" in call(copy, "-m", "conf.reference")
    tests = ("tests/strategies/test_contract.py", "tests/app/test_strategy.py", "-k", "pairs")
    assert " passed" in call(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)


@pytest.mark.timeout(600)
def test_a_partitioner(copy: Path) -> None:
    follow("partitioner", copy)
    simulate(copy, "partitioner=blocks", "strategy=all_reduce", "workers=3")
    parts = np.load(copy / "out" / "partition.npz")
    assert parts["indices"].tolist() == list(range(len(parts["indices"])))
    assert len(parts["sizes"]) == 3
    assert np.ptp(parts["sizes"]) <= 1
    tests = ("tests/partitioners/test_contract.py", "tests/app/test_partition.py", "-k", "blocks or registered")
    assert " passed" in call(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)


@pytest.mark.timeout(600)
def test_a_task(copy: Path) -> None:
    follow("task", copy)
    records = simulate(copy, "task=waves", "model=cnn1d", "strategy=all_reduce", "workers=4")
    assert len(records[-1]["worker_accuracy"]) == 4
    tests = ("tests/tasks/test_contract.py", "-k", "waves")
    assert " passed" in call(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
