"""The wheel, unpacked into a folder from which a user's programs import it without the checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.repository import copy_repository

# What a user may have lying beside the script that imports echelon.
MINE = {
    "strategies.py": "MINE = 1",
    "algorithms.py": "MINE = 1",
    "tasks.py": "MINE = 1",
    "clients/__init__.py": "MINE = 1",
    "conf/__init__.py": "MINE = 1",
    "conf/config.yaml": "mine: 1",
}


@dataclass(frozen=True)
class Installed:
    """A wheel and a folder from which it can be imported without the checkout."""

    wheel: Path
    site: Path
    user: Path

    # -S: the .pth file of the editable installation must not serve what the wheel lacks.
    python = (sys.executable, "-S")

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which dependencies come from this environment, and echelon from the wheel."""
        return {"PYTHONPATH": os.pathsep.join([str(self.site), sysconfig.get_paths()["purelib"]])}

    def run(self, program: str) -> "subprocess.CompletedProcess[str]":
        """Run a program in the user's folder."""
        return self.start("-c", program)

    def start(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python with these arguments in the user's folder, with one thread: others run beside."""
        command = [*self.python, *arguments]
        environment = {**os.environ, **self.environment, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        return subprocess.run(
            command, cwd=self.user, env=environment, capture_output=True, text=True, check=False, timeout=200
        )


def install(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel and unpack it."""
    source = tmp_path_factory.mktemp("source")
    copy_repository(source)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(source / "dist")], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    site, user = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("user")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name, content in MINE.items():
        (user / name).parent.mkdir(exist_ok=True)
        (user / name).write_text(content + "\n")
    return Installed(wheel, site, user)
