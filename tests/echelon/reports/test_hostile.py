"""Run folders of others: what they contain is shown as text, or refused in one line."""

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from echelon.reports.__main__ import main
from echelon.reports.run_folder import RunFolder, RunFolderError

CONFIG = "seed: 0\nrounds: 2\nworkers: 2\nstrategy: {name: d_psgd}\n"
RECORD: dict[str, Any] = {
    "virtual_seconds": 1.0,
    "minibatches": [1, 2],
    "train_loss": -0.5,
    "present": [0, 1],
    "consensus_accuracy": 0.5,
    "wall_seconds": 1.0,
    "compute_seconds": [1, 1],
    "idle_share": [0, 0.1],
    "round_seconds": 1.0,
}


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echelon.reports.figures.write", lambda run: [])
    monkeypatch.setattr("echelon.reports.figures.comparison.draw", lambda result: {})


def make(folder: Path, config: str = CONFIG, record: dict[str, Any] | None = None, summary: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    rounds = ({"round": number, **RECORD, **(record or {})} for number in (1, 2))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rounds))
    if summary is not None:
        (folder / "summary.json").write_text(summary)
    return folder


def named(strategy: str) -> str:
    return CONFIG.replace("d_psgd", json.dumps(strategy))


class Console:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def shows(self, *arguments: object) -> str:
        assert main(list(map(str, arguments))) == 0
        return self._capsys.readouterr().out

    def refuses(self, *arguments: object) -> str:
        assert main(list(map(str, arguments))) == 2
        lines = self._capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("COLUMNS", "200")
    return Console(capsys)


@pytest.mark.parametrize("name", ["[/red]", "[red]x", "[link=http://other.example]x[/link]", "$\\frac{1}{0", "a\\"])
def test_markup_is_shown_as_written(name: str, tmp_path: Path, console: Console) -> None:
    assert name in console.shows("compare", make(tmp_path / "a"), make(tmp_path / "b", named(name)))


@pytest.mark.parametrize("name", ["\x1b[2J\x1b]0;title\x07", "\u202egnp.exe", "a\nb\r", "\x00"])
def test_no_name_controls_the_terminal(name: str, tmp_path: Path, console: Console) -> None:
    out = tmp_path / "out"
    folder = make(tmp_path / f"run{name.replace(chr(0), '').encode(errors='ignore').decode()}", named(name))
    for command in (["show", folder], ["compare", make(tmp_path / "a"), folder, "--out", out, "--csv"]):
        shown = console.shows(*command)
        assert [character for character in shown if not character.isprintable() and character != "\n"] == []
    page = (out / "index.html").read_text(encoding="utf-8")
    assert [character for character in page if not character.isprintable() and character not in "\n\xa0"] == []


def _cells(folder: Path) -> Iterable[str]:
    for name in ("comparison.csv", "metrics.csv"):
        with (folder / name).open(newline="") as file:
            yield from (cell for row in csv.reader(file) for cell in row)


@pytest.mark.parametrize(
    "formula", ["=1+1", '=HYPERLINK("http://x")', "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "\t=1"]
)
def test_no_cell_is_a_formula(formula: str, tmp_path: Path, console: Console) -> None:
    other = make(tmp_path / "b", named(formula), {formula: 1, "note": formula})
    console.shows("compare", make(tmp_path / "a"), other, "--out", tmp_path / "out", "--csv")
    cells = list(_cells(tmp_path / "out"))
    formulas = [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert [cell for cell in formulas if not re.fullmatch(r"-?[0-9.]+", cell)] == []
    assert "-0.5" in cells
    assert any(cell.startswith("'") and cell.endswith(formula.strip()) for cell in cells)


WRONG = {
    "round": "x",
    "virtual_seconds": None,
    "minibatches": "abc",
    "present": 5,
    "train_loss": "<b>x</b>",
    "wall_seconds": 10**400,
    "consensus_accuracy": [1],
    "idle_share": "x",
    "compute_seconds": [[1], [1]],
    "dropped_seconds": [1],
    "target_minibatches": None,
    "worker_accuracy": {"a": 1},
    "edges": [[0, 7]],
    "graph": 0,
    "leaders_best": [99, -5],
    "peer_bytes": [True, False],
    "rejections": [1],
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_named(field: str, tmp_path: Path, console: Console) -> None:
    run = make(tmp_path / "run", record={field: WRONG[field]})
    for command in ("show", "compare"):
        assert f"{run}: metrics.jsonl line 1: {field} must be " in console.refuses(command, run)


def test_every_round_has_the_same_workers(tmp_path: Path, console: Console) -> None:
    run = make(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": 3, "virtual_seconds": 2.0, "minibatches": [1]}) + "\n")
    message = "metrics.jsonl line 3: minibatches must be a list of 2 numbers or nulls; got [1]"
    assert message in console.refuses("show", run)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("rounds: abc\n", "config.yaml: rounds must be an integer; got 'abc'"),
        ("workers: [1]\n", "config.yaml: workers must be an integer; got [1]"),
        ("a: &a [x]\nb: *a\n", "config.yaml cannot be read: it must have no anchors and aliases (line 1)"),
        ("a: !!python/object/apply:os.getcwd []\n", "config.yaml cannot be read: it must have no tags (line 1)"),
        ("{a: " * 400 + "1" + "}" * 400, "config.yaml cannot be read: it must nest at most 20 deep (line 1)"),
        ("x: " + "1" * (1 << 20), "config.yaml cannot be read: it must have at most 1048576 bytes"),
        (named("\ud83d"), "config.yaml cannot be read: "),
    ],
)
def test_a_hostile_configuration_is_refused(config: str, message: str, tmp_path: Path, console: Console) -> None:
    run = make(tmp_path / "run", config)
    for command in ("show", "compare"):
        assert message in console.refuses(command, run)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"rounds": "x"}', "summary.json: rounds must be a number or null; got 'x'"),
        ('{"worker_accuracy_min": [1]}', "summary.json: worker_accuracy_min must be a number or null"),
        ("[" * 100_000, "summary.json cannot be read: "),
    ],
)
def test_a_wrong_summary_is_refused(content: str, message: str, tmp_path: Path, console: Console) -> None:
    assert message in console.refuses("show", make(tmp_path / "run", summary=content))


def test_a_file_larger_than_the_memory_is_refused(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run")
    monkeypatch.setattr("echelon.core.memory.available", lambda: 100)
    assert "metrics.jsonl needs at least 0.0 MB of memory" in console.refuses("show", run)


@pytest.mark.parametrize(
    "places",
    [
        [],
        {"x": [0]},
        {"x": [0], "y": [0], "rank": [2], "class": [0]},
        {"x": [0, 1], "y": [0], "rank": [0], "class": [0]},
    ],
)
def test_samples_that_are_nowhere(tmp_path: Path, places: object) -> None:
    folder = make(tmp_path / "run")
    (folder / "partition.json").write_text(json.dumps({"sizes": [1, 1], "quality": {"projection": places}}))
    with pytest.raises(RunFolderError, match=r"partition\.json: quality\.projection must be equally long lists"):
        _ = RunFolder.open(folder).partition
