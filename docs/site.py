"""What the documentation site adds to docs/: start page, pages of the API, and the library under its installed name.

A hook of MkDocs and an extension of Griffe, which reads the docstrings.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
EXTENDED = ("clients", "partitioners", "strategies", "tasks")  # as in pyproject.toml

# By page: its title, and its sections: heading, module, and names in their order (none: all public ones).
API: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "strategies": (
        "Strategies",
        [
            ("Choices", "echelon.strategies", "AllReduce DPSGD Matcha ALDSGD OverSelection FedBuff FedCompass"),
            ("Work and optimisation", "echelon.strategies", "FullBatch NonBlocking SGD"),
            ("Options", "echelon.strategies", "Options Partition Nodes NormLimit AutoNormLimit"),
            ("Your own strategy", "echelon.strategies", "FlowerStrategy Gossip RoundNumbers Mixing Mean"),
            (
                "State and errors",
                "echelon.strategies",
                "ServerState Roster RosterError RunStoppedError AllWorkersFailedError",
            ),
        ],
    ),
    "clients": (
        "Client",
        [("echelon.clients", "echelon.clients", "make_client_app Budget Fleet Device Jitter WorkerApp rank_of")],
    ),
    "partitioners": (
        "Partitioners",
        [(name, name, "") for name in ("echelon.partitioners", "echelon.partitioners.quality")],
    ),
    "tasks": ("Tasks", [("echelon.tasks", "echelon.tasks", "")]),
    "engines": ("Engines and peers", [(name, name, "") for name in ("echelon.engines.inline", "echelon.peer")]),
    "reports": (
        "Reports",
        [(name, name, "") for name in ("echelon.reports.frames", "echelon.reports.recording")],
    ),
    "algorithms": (
        "Algorithms",
        [
            (f"echelon.algorithms.{name}", f"echelon.algorithms.{name}", "")
            for name in ("topology", "mixing", "matcha", "leader", "partial")
        ],
    ),
}
# Pages that are elsewhere in the repository.
BORROWED = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_startup(command: str, dirty: bool) -> None:
    """Lay out the library as the wheel does, where Griffe reads it; before the configuration looks for that folder."""
    tree = ROOT / "build" / "api" / "echelon"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT / "echelon", tree)
    for name in EXTENDED:
        shutil.copytree(ROOT / name, tree / name)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for name, source in BORROWED.items():
        files.append(File.generated(config, name, content=moved((ROOT / source).read_text(encoding="utf-8"))))
    files.append(File.generated(config, "CITATION.cff", content=(ROOT / "CITATION.cff").read_text(encoding="utf-8")))
    for name, (title, sections) in API.items():
        parts = [f"# {title}\n", *(section(*of_section) for of_section in sections)]
        files.append(File.generated(config, f"api/{name}.md", content="\n".join(parts)))
    return files


def section(heading: str, module: str, names: str) -> str:
    """Return the Markdown of a section of an API page."""
    if not names:
        return f"## {heading}\n\n::: {module}\n    options: {{heading_level: 3}}\n"
    options = "{heading_level: 3, show_root_heading: true, show_root_toc_entry: true, show_root_full_path: false}"
    return f"## {heading}\n\n" + "".join(f"::: {module}.{name}\n    options: {options}\n\n" for name in names.split())


def moved(text: str) -> str:
    """Return a page of the repository's root with its links changed to lead from docs/."""
    for name, source in BORROWED.items():
        text = text.replace(f"]({source}", f"]({name}")
    return text.replace("](docs/", "](")


class Roles(griffe.Extension):
    """Show the roles of Sphinx in docstrings as code, with the names of the installed library."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a function, class, module or attribute."""
        if obj.docstring:
            text = re.sub(r":(?:class|func|meth|mod):`~?([^`]+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(rf"`((?:{'|'.join(EXTENDED)})\.)", r"`echelon.\1", text).replace("``", "`")
