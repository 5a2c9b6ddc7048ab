"""The documentation names code that exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.repository import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FILE = re.compile(r"`([\w/]+\.(?:py|yaml|toml))`")
_NAME = re.compile(r"`([\w/]+\.py)`: `([A-Za-z_]+(?:\.[A-Za-z_]+)?)")
_SHORT = re.compile(r"`(\w+)\.(\w+(?:\.\w+)?)(?:\(\))?`")
_CODE = ("app", "clients", "conf", "echelon", "partitioners", "strategies", "tasks")
_TABLES = ("csv", "json", "jsonl", "npz")
_SUFFIXES = (*_TABLES, "log", "md", "png", "pth", "pub", "py", "safetensors", "toml", "txt", "yaml")
_KEYS = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}  # `strategy.c1` is a key
_LIBRARIES = {"torch"}  # a page means the library, not the engine of that name
# Written in CONTRIBUTING's examples, and by a user.
_NOT_HERE = ("strategies/pairs.py", "partitioners/blocks.py", "tasks/waves.py")


@cache
def _names(path: Path) -> set[str]:
    """Return what a module defines or imports: functions, classes, members of classes, constants."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for member in node.body for name in _defined(member)}
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        found |= _defined(node)
    return found


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


@cache
def _short_names() -> dict[str, set[str]]:
    """Return the names that follow a module's stem or a class's name."""
    found: dict[str, set[str]] = {}
    for path in (file for folder in _CODE for file in (ROOT / folder).rglob("*.py")):
        if path.stem not in _LIBRARIES:
            found.setdefault(path.stem, set()).update(_names(path))
        for name in _names(path):
            if name[0].isupper() and "." in name:
                found.setdefault(name.split(".")[0], set()).add(name.split(".")[1])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_functions_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in _FILE.findall(text) if "/" in name and name not in _NOT_HERE and not _exists(name)]
    assert missing == []
    assert [f"{file}: {name}" for file, name in _NAME.findall(text) if name not in _names(ROOT / file)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_short_names_exist(page: Path) -> None:
    known = _short_names()
    text = page.read_text(encoding="utf-8")
    used = [pair for pair in _SHORT.findall(text) if pair[0] in known and pair[0] not in _KEYS]
    assert [pair for pair in used if pair[1].split(".")[-1] not in _SUFFIXES and pair[1] not in known[pair[0]]] == []


def _exists(name: str) -> bool:
    return (ROOT / name).exists() or any(ROOT.glob(f"*/{name}"))
