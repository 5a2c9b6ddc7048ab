"""The Python examples of the README run unchanged, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.repository import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize(("block", "expected"), list(zip(BLOCKS, ["train_loss", "[225, 224, 449, 899]"], strict=True)))
def test_example_prints_what_it_should(block: str, expected: str) -> None:
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_its_diffs_are_those_of_the_examples() -> None:
    """tests/test_wheel.py runs what they lead to."""
    readme, client, peer = (
        re.findall(r"```diff\n.*?```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        for page in ("README.md", "docs/client.md", "docs/peer.md")
    )
    assert readme == [*client, *peer]


def test_on_an_index_its_links_lead_to_the_tag(tmp_path: Path) -> None:
    """The release's own command, as the workflow has it, leaves no relative link but changes nothing else."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    (command,) = (step["run"] for step in workflow["jobs"]["build"]["steps"] if "README.md" in step.get("run", ""))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    environment = {**os.environ, "GITHUB_REPOSITORY": "owner/name", "GITHUB_REF_NAME": "v1"}
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=environment, check=True)
    absolute = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((?!https://)", absolute) == []
    images, pages = (f"](https://github.com/owner/name/{kind}/v1/" for kind in ("raw", "blob"))
    assert absolute.count(f"![Eight workers, blocking and non-blocking{images}docs/figures/hero.png)") == 1
    assert absolute.replace(images, "](").replace(pages, "](") == readme


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
