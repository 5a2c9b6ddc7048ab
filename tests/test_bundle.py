"""The Flower bundle that `flwr run` sends to the SuperLink and the SuperNodes."""

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from tests.repository import ROOT, copy_repository

MOST_BYTES = 2_000_000

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr reads .gitignore


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    source = tmp_path_factory.mktemp("source")
    copy_repository(source)
    return build_fab_from_disk(source)


def test_holds_what_a_run_needs_and_no_more(bundle: bytes) -> None:
    assert len(bundle) < MOST_BYTES
    names = zipfile.ZipFile(io.BytesIO(bundle)).namelist()
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders >= {"app", "clients", "conf", "echelon", "partitioners", "strategies", "tasks"}
    assert not folders & {"benchmarks", "docs", "examples", "tests"}


def test_the_apps_load_from_it_alone(bundle: bytes, tmp_path: Path) -> None:
    """As Flower loads them: from the unpacked bundle, without the checkout or an installation of echelon."""
    zipfile.ZipFile(io.BytesIO(bundle)).extractall(tmp_path)
    program = (
        "import server_app, client_app, strategies, echelon\n"
        "from strategies import ALDSGD\n"
        "from conf import compose\n"
        "from app import strategy\n"
        "built = strategy.build(compose(), strategy.Options(held_out_loss=lambda arrays: 0.0))\n"
        "print(type(built) is ALDSGD, echelon.__file__, strategies.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", *(str(tmp_path / n / "__init__.py") for n in ("echelon", "strategies"))]


def test_the_example_app_is_a_bundle_that_flower_hub_takes(tmp_path: Path) -> None:
    """Format 1 asks for the licence, the supported versions of Flower, and the one that the app is written for."""
    shutil.copytree(ROOT / "examples" / "flower_app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(tmp_path / "app")))
    config = tomllib.loads(bundle.read("pyproject.toml").decode())
    assert config["tool"]["flwr"]["app"]["fab-format-version"] == 1
    assert {"LICENSE", "digits_app/server_app.py", "digits_app/client_app.py"} <= set(bundle.namelist())
