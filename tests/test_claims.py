"""The published claims: their verdicts, their command in small, and the tables of docs/claims.md."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import __main__ as command
from benchmarks.claims import verdict
from benchmarks.claims.effects import EFFECTS
from benchmarks.claims.settings import COMMON, SETTINGS, VARIANTS
from conf import compose
from tests.repository import ROOT

RECORDED = json.loads((ROOT / command.RESULTS).read_text())
NON_BLOCKING = ("nb_d_psgd", "nb_matcha")


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("nb_d_psgd", [2.1, 1.9, 2.2], "confirmed"),
        ("nb_d_psgd", [1.3, 1.4, 1.3], "smaller than published"),
        ("nb_d_psgd", [0.8, 1.4, 1.1], "no effect seen"),
        ("nb_d_psgd", [0.6, 0.7, 0.6], "the opposite"),
        ("nb_d_psgd", [2.0], "one seed: no verdict"),
        ("rcd_time_d_psgd", [-30.0, -35.0, -33.0], "confirmed"),
        ("rcd_time_d_psgd", [10.0, 11.0, 12.0], "the opposite"),
        ("rcd_random", [1.0, 1.1, 0.9], "more"),
        ("rcd_random", [-1.0, -1.1, -0.9], "less"),
        ("all_three", [0.5, 0.6, 0.5], "less"),
    ],
)
def test_verdicts(name: str, values: list[float], expected: str) -> None:
    assert verdict.judge(EFFECTS[name], values) == expected


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_run_is_a_configuration(setting: str) -> None:
    for name, own in VARIANTS.items():
        assert compose(["engine=inline", *COMMON, *SETTINGS[setting], *own]).workers == 8, name


def called(arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["claims", *arguments.split()])
    return command.main()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reduce the claims to the first one, with results of their own."""
    monkeypatch.setattr(command, "EFFECTS", {name: EFFECTS[name] for name in NON_BLOCKING})
    names = ("d_psgd", "d_psgd, non-blocking", "matcha", "matcha, non-blocking")
    monkeypatch.setattr(command, "VARIANTS", {name: VARIANTS[name] for name in names})
    monkeypatch.setattr(command, "RESULTS", tmp_path / "claims.json")
    monkeypatch.setitem(SETTINGS, "quick", [*SETTINGS["quick"], "rounds=15", "task.train_limit=400"])
    return tmp_path


def test_the_command(small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"--setting quick --seeds 1 --jobs 1 --out {small}/runs"
    with pytest.raises(SystemExit, match="has no results of this setting to compare with"):
        called(f"{arguments} --check", monkeypatch)
    assert called(arguments, monkeypatch) == 0
    printed = capsys.readouterr()
    assert "| 1 Non-blocking SGD | time to the same loss, D-PSGD | 2.00 x |" in printed.out
    assert "4/4 " in printed.err
    kept = json.loads((small / "claims.json").read_text())
    assert {name: len(values) for name, values in kept["quick"].items()} == dict.fromkeys(NON_BLOCKING, 1)

    assert called(f"{arguments} --check", monkeypatch) == 0
    assert capsys.readouterr().err == ""  # nothing was run again
    kept["quick"]["nb_d_psgd"] = [0.5, 0.51]
    (small / "claims.json").write_text(json.dumps(kept))
    assert called(f"{arguments} --check", monkeypatch) == 1
    assert "time to the same loss, D-PSGD: " in capsys.readouterr().err
    assert json.loads((small / "claims.json").read_text()) == kept


@pytest.mark.parametrize("setting", RECORDED)
def test_the_page_has_the_recorded_results(setting: str) -> None:
    assert verdict.table(RECORDED[setting]) in (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    found: dict[str, Any] = {name: [effect.nothing, effect.nothing + 1] for name, effect in EFFECTS.items()}
    verdict.draw(found, tmp_path / "claims.png")
    assert (tmp_path / "claims.png").stat().st_size > 10_000
