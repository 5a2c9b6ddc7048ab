"""The repository's files, and copies of them for tests that change or install them."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTENDED = ("clients", "partitioners", "strategies", "tasks")  # folders that the wheel maps into the package


def repository_files() -> list[Path]:
    """Return the files that git tracks, and the untracked ones that it does not ignore, relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (ROOT / (path := Path(name))).is_file()]


def copy_repository(folder: Path) -> None:
    """Copy the repository's files into a folder."""
    for path in repository_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
