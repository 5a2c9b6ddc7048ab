"""The `echelon` command."""

from pathlib import Path

import pytest

from echelon.__main__ import main
from echelon.reports import environment


def test_versions_for_a_bug_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.describe() | {
        "packages": {"flwr-echelon": "1.2.3", "flwr": "1.42.0", "ray": None},
        "git_commit": "abc",
        "git_modified": True,
        "cpu": None,
        "cpu_count": 4,
        "memory_bytes": 8 << 30,
        "gpus": [],
    }
    monkeypatch.setattr(environment, "describe", lambda: found)
    assert main(["versions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python 3.")
    assert lines[1:4] == ["flwr-echelon 1.2.3, commit abc, modified", "flwr 1.42.0", "ray not installed"]
    assert lines[-2:] == ["processor unknown, 4 cores, 8 GiB", "gpus none"]


def test_report_is_that_of_the_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", "show", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("echelon report: ")
    with pytest.raises(SystemExit) as caught:
        main(["report", "show", "--help"])
    assert caught.value.code == 0
    assert "usage: echelon report show" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["reports"], ["versions", "more"]])
def test_anything_else_is_one_of_argparse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: echelon" in capsys.readouterr().err
