"""Conventions of the repository."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from tests.repository import EXTENDED, ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[A-Za-z0-9_.-]+", line) for line in requirements)
    return {re.sub(r"[-_.]+", "-", match.group()).lower() for match in found if match}


class TestRequirements:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()

    def test_no_address_of_a_registry(self) -> None:
        assert [line for line in self.lines if "://" in line or "index-url" in line.split("uv pip compile")[0]] == []

    def test_every_dependency_is_pinned(self) -> None:
        extras = PROJECT["project"]["optional-dependencies"]
        declared = PROJECT["project"]["dependencies"] + extras["dev"] + extras["datasets"] + extras["tensorboard"]
        pinned = _names([line for line in self.lines if "==" in line])
        assert _names(declared) - pinned == {"flwr-echelon"}

    def test_made_by_the_command_of_the_makefile(self) -> None:
        command = self.lines[1].removeprefix("#").split()
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ").replace("$(BIN)/", "")
        assert " ".join(command) in " ".join(makefile.split())


def test_ci_tests_every_supported_minor_version_of_flower() -> None:
    ranges = [line for line in PROJECT["project"]["dependencies"] if line.startswith("flwr[")]
    first, end = (int(minor) for minor in re.findall(r"[>=<]+1\.(\d+)", ranges[0]))
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    tested = [f"1.{minor}" for minor in range(first, end)]
    assert workflow["jobs"]["flower"]["strategy"]["matrix"]["flower"] == tested
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert any(pin.startswith(f"flwr=={tested[-1]}.") for pin in pins)


class TestPackages:
    def test_the_wheel_holds_every_package_under_one_name(self) -> None:
        own = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("echelon/**/__init__.py")}
        extended = {
            "echelon." + ".".join(path.parent.relative_to(ROOT).parts)
            for folder in EXTENDED
            for path in ROOT.glob(f"{folder}/**/__init__.py")
        }
        assert set(PROJECT["tool"]["setuptools"]["packages"]) == own | extended
        assert PROJECT["tool"]["setuptools"]["package-dir"] == {f"echelon.{folder}": folder for folder in EXTENDED}

    def test_every_folder_is_in_the_layers(self) -> None:
        folders = sorted(path.parent.name for path in ROOT.glob("[a-z]*/__init__.py"))
        assert sorted(PROJECT["tool"]["importlinter"]["root_packages"]) == folders


def test_make_lists_its_targets() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[1] for line in shown.splitlines()] == [
        *("help", "setup", "run", "deploy-demo", "test", "lint", "format", "requirements", "clean")
    ]


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ntest "$1" = --version && echo "Python 3.10.2"\n')
    old.chmod(0o755)
    ran = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    message = (
        f"Echelon needs Python 3.11 or newer; {old} is: Python 3.10.2. Name another one: make setup PYTHON=python3.11"
    )
    assert message in ran.stderr
    assert not (tmp_path / ".venv").exists()
