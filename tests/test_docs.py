"""The documentation names code that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FILE = re.compile(r"`([\w/]+\.(?:py|yaml|toml))`")
_NAME = re.compile(r"`([\w/]+\.py)`: `([A-Za-z_]+(?:\.[A-Za-z_]+)?)")
# Written in CONTRIBUTING's examples, and by a user.
_NOT_HERE = ("strategies/pairs.py", "partitioners/blocks.py", "tasks/waves.py")


def _names(path: Path) -> set[str]:
    """Return what a module defines: functions, classes, and members of classes."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_functions_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in _FILE.findall(text) if "/" in name and name not in _NOT_HERE and not _exists(name)]
    assert missing == []
    assert [f"{file}: {name}" for file, name in _NAME.findall(text) if name not in _names(ROOT / file)] == []


def _exists(name: str) -> bool:
    return (ROOT / name).exists() or any(ROOT.glob(f"*/{name}"))
