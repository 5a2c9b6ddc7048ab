"""Conventions of the repository."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
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

    def test_every_pin_has_hashes(self) -> None:
        pins = re.split(
            r"^(?=[a-z])", "\n".join(line for line in self.lines if not line.lstrip().startswith("#")), flags=re.M
        )
        assert len(pins) > 100
        assert [pin for pin in pins[1:] if not re.search(r" \\\n    --hash=sha256:[0-9a-f]{64}", pin)] == []


class TestSetup:
    """What `make setup` installs, and how."""

    @pytest.fixture(params=["", "cpu"])
    def commands(self, request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
        for name in ("Makefile", "pyproject.toml", "requirements.txt"):
            (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
        (tmp_path / ".venv").mkdir()
        command = ["make", "-n", "--no-print-directory", "setup", f"TORCH={request.param}"]
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        commands = shown.replace("\\\n", " ").splitlines()
        for selection in (line for line in commands if line.startswith(("sed ", "awk "))):
            subprocess.run(selection, shell=True, cwd=tmp_path, check=True)
        return [line for line in commands if " install " in line]

    def test_everything_but_torch_from_elsewhere_is_checked_by_its_hash(self, commands: list[str]) -> None:
        unchecked = [line for line in commands if " --require-hashes" not in line]
        assert unchecked[-1].endswith(" --no-deps -e .")
        assert [line for line in unchecked[:-1] if " --torch-backend cpu " not in line] == []
        for line in commands[1:]:
            assert " --build-constraints requirements.txt --require-build-hashes" in line

    def test_uv_itself_comes_first(self, commands: list[str], tmp_path: Path) -> None:
        assert " -m pip install " in commands[0]
        lines = (tmp_path / ".venv" / "uv.txt").read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("uv==")
        assert all(line.startswith("    --hash=sha256:") for line in lines[1:-1])

    def test_torch_from_elsewhere_has_the_pinned_version(self, commands: list[str], tmp_path: Path) -> None:
        pinned = _names([line for line in TestRequirements.lines if "==" in line])
        others = (tmp_path / ".venv" / "others.txt").read_text(encoding="utf-8").splitlines()
        left_out = pinned - _names([line for line in others if "==" in line])
        assert left_out > {"torch", "torchvision"}
        assert {name.split("-")[0] for name in left_out} == {"torch", "torchvision", "triton", "nvidia", "cuda"}
        for line in (line for line in commands if " --torch-backend " in line):
            chosen = subprocess.run(
                f"echo {line}", shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
            )
            versions = chosen.stdout.split("others.txt")[1].split()
            assert versions == [pin.split()[0] for pin in TestRequirements.lines if pin.startswith("torch")]


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
        *("help", "setup", "run", "deploy-demo", "deploy-kit", "soak", "claims-quick", "test"),
        *("lint", "format", "docs", "requirements", "clean"),
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


def test_the_citation_is_that_of_the_project() -> None:
    """Its version is the project's, and each of its papers is linked in the README."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert (cited["version"], cited["license"]) == (PROJECT["project"]["version"], PROJECT["project"]["license"])
    assert all(paper["url"] in readme for paper in cited["references"])
