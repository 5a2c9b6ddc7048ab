"""Flower's simulation engine against the in-process one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_ray_agrees_with_inline(tmp_path: Path) -> None:
    for engine in ("ray", "inline"):
        arguments = [f"engine={engine}", f"run_dir={tmp_path / engine}", "rounds=5", "workers=8", "progress=none"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "run_sim.py", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(tmp_path / engine)
    ray, inline = records(tmp_path / "ray"), records(tmp_path / "inline")
    assert [r["train_loss"] for r in ray] == pytest.approx([r["train_loss"] for r in inline], abs=1e-4)
    assert [r["virtual_seconds"] for r in ray] == pytest.approx([r["virtual_seconds"] for r in inline])
