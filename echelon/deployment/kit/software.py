"""What the machines of a kit install: a wheel of Echelon, the requirements of an app, and the versions in use here."""

import base64
import hashlib
import io
import re
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "flwr-echelon"
# In a checkout these lie beside `echelon`; an installation has them in it.
_MAPPED = ("clients", "partitioners", "strategies", "tasks")


def read_project(app: Path) -> dict[str, Any]:
    """Return the ``pyproject.toml`` of a Flower app.

    Raises
    ------
    ValueError
        If there is none, or it describes no Flower app.
    """
    file = app / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--app {app} is no Flower app: {file} cannot be read: {error}") from error
    if "components" not in project.get("tool", {}).get("flwr", {}).get("app", {}):
        raise ValueError(f"--app {app} is no Flower app: {file} has no [tool.flwr.app.components]")
    return project


def requirements(project: dict[str, Any]) -> list[Requirement]:
    """Return what an app and Echelon require, without Echelon; Flower in the version that is installed here.

    Machines of a deployment need no simulation engine, and must have the same version of Flower.
    """
    named = [*project.get("project", {}).get("dependencies", []), *(distribution(PROJECT).requires or [])]
    found = [Requirement(text) for text in named if "extra ==" not in text]
    others = {str(each): each for each in found if canonicalize_name(each.name) not in ("flwr", PROJECT)}
    return [Requirement(f"flwr=={distribution('flwr').version}"), *(others[text] for text in sorted(others))]


def versions(required: Iterable[Requirement]) -> dict[str, str | None]:
    """Return the versions installed here of distributions and all that they require; None of what is not installed."""
    found: dict[str, str | None] = {}
    here_too = (each for each in required if each.marker is None or each.marker.evaluate())
    waiting = [(each.name, frozenset(each.extras)) for each in here_too]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            here = distribution(name)
        except PackageNotFoundError:
            found[canonicalize_name(name)] = None
            continue
        # A local label (2.9.0+cpu) names a build, which another machine may not be able to use.
        found[canonicalize_name(name)] = here.version.split("+")[0]
        new = {each for each in _required_by(here, extras) if each not in seen}
        seen |= new
        waiting += new
    return found


def _required_by(here: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for text in here.requires or []:
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield needed.name, frozenset(needed.extras)


def write_wheel(folder: Path) -> Path:
    """Write a wheel of the Echelon that is running, from a checkout or an installation; return its path.

    No build tools are needed: they may not be installed, and pip would download them.
    """
    here = distribution(PROJECT)
    name = PROJECT.replace("-", "_")
    info = f"{name}-{here.version}.dist-info"
    wheel = folder / f"{name}-{here.version}-py3-none-any.whl"
    tags = "Wheel-Version: 1.0\nGenerator: echelon kit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    texts = {"METADATA": str(here.metadata), "WHEEL": tags, "entry_points.txt": here.read_text("entry_points.txt")}
    contents = {f"echelon/{path}": file.read_bytes() for path, file in _modules()}
    contents |= {f"{info}/{file}": text.encode() for file, text in texts.items() if text}
    lines = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in contents.items():
            archive.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED)
    return wheel


def _modules() -> Iterator[tuple[str, Path]]:
    """Yield the files of the package with their paths in it."""
    root = Path(__file__).parents[2]
    yield from _files(root, "")
    for name in _MAPPED:
        if not (root / name).is_dir():
            spec = find_spec(f"echelon.{name}")
            if spec is None or not spec.submodule_search_locations:
                raise ValueError(f"echelon.{name} is not installed: run make setup, or pip install .")
            yield from _files(Path(spec.submodule_search_locations[0]), f"{name}/")


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:  # of Python, and of numba
            yield prefix + file.relative_to(folder).as_posix(), file


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def app_files(app: Path) -> dict[str, bytes]:
    """Return the files of an app that ``flwr run`` sends to the machines, by path."""
    from flwr.cli.build import build_fab_from_disk

    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist() if not re.match(r"\.info/|.*/$", name)}
