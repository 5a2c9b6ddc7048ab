"""Smoke tests of the benchmarks that need no data."""

import sys
from typing import Any

import pytest

from benchmarks import matcha, mixing, partition_quality, reporting
from benchmarks.experiments import stragglers


def called(module: Any, arguments: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments.split()])
    return module.main()


def test_matcha(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(matcha, "--workers 16 --degree 4 --budgets 0.5 --solvers", monkeypatch)
    assert "0.5" in capsys.readouterr().out


def test_mixing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(mixing, "--workers 4 --columns 1000 --repeats 1", monkeypatch)
    assert "torch" in capsys.readouterr().out


def test_reporting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(reporting, "--rounds 2 --round-seconds 0.01 --workers 4", monkeypatch)
    assert "progress=live" in capsys.readouterr().out


def test_partition_quality(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(partition_quality, "--tasks digits --features raw --train-limit 400", monkeypatch)
    assert "min_value" in capsys.readouterr().out


def test_an_experiment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stragglers, "TASKS", {"digits": stragglers.TASKS["digits"]})
    monkeypatch.setattr(stragglers, "SHARDS", {"iid": stragglers.SHARDS["iid"]})
    monkeypatch.setattr(stragglers, "MIXINGS", {"all_reduce": stragglers.MIXINGS["all_reduce"]})
    monkeypatch.setattr(stragglers, "ESTIMATORS", ("nominal",))
    called(stragglers, f"--out {tmp_path} --seeds 1 --jobs 1 rounds=12", monkeypatch)
    printed = capsys.readouterr().out
    for row in ("all_reduce, blocking", "all_reduce, non_blocking", "over_selection", "fedbuff", "nominal"):
        assert f"| {row} |" in printed
