"""The documentation site builds without a warning, shows every page, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import clients
import partitioners
import strategies
import tasks
from tests.repository import ROOT, copy_repository

PACKAGES = (clients, partitioners, strategies, tasks)

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Loaded(HTMLParser):
    """Collect the addresses that a page loads, and its headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        if tag in LOADING and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values.get(LOADING[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site of a copy of the repository; the build is strict, so that a broken link ends it."""
    copy = tmp_path_factory.mktemp("site")
    copy_repository(copy)
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return copy / "build" / "site"


def test_every_page_is_there(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    start = (site / "index.html").read_text(encoding="utf-8")
    assert [page for page in pages if not (site / page).is_file() or f'href="{page}"' not in start] == []
    assert "<h1" in start
    assert not list(site.rglob("*.py"))


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = {path: Loaded(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert all(page.addresses for page in pages.values())
    for path, page in pages.items():
        assert [address for address in page.addresses if "//" in address] == [], path
        local = [address for address in page.addresses if not address.startswith("data:")]
        folder = site if path.name == "404.html" else path.parent
        assert [address for address in local if not (folder / address.lstrip("/")).exists()] == [], path
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")) == []


def test_the_public_names_are_documented(site: Path) -> None:
    shown = set().union(*(Loaded(path.read_text(encoding="utf-8")).ids for path in (site / "api").glob("*.html")))
    expected = {
        **{f"echelon.{package.__name__}": " ".join(package.__all__) for package in PACKAGES},
        "echelon.strategies.FlowerStrategy": "start",
        "echelon.partitioners.quality": "report",
        "echelon.engines.inline": "InlineGrid",
        "echelon.peer": "Peer.minibatches Peer.mix",
        "echelon.algorithms.topology": "build g0 matchings rotation",
        "echelon.algorithms.mixing": "metropolis uniform laplacian target restrict spectral_gap consensus_distance",
        "echelon.algorithms": "matcha.solve leader.operator partial.budget partial.combine",
    }
    names = {f"{module}.{name}" for module, found in expected.items() for name in found.split()}
    assert {name for name in names - shown if not name.split(".")[-1].isupper()} == set()
