"""The examples of what users write themselves run from the wheel: scripts, and the notebook from top to bottom."""

import json
import re

import pytest

from tests.installation import Installed
from tests.repository import ROOT

EXAMPLES = ROOT / "examples"


def test_a_strategy_of_ones_own(installed: Installed) -> None:
    """Random pairs, of which each worker sends one model, learn what a ring does, where it sends two."""
    done = installed.start(str(EXAMPLES / "own_strategy.py"))
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+): accuracy ([\d.]+) after .* sends ([\d.]+) kB", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in found] == ["RandomPairs", "DPSGD"]
    assert float(found[1][2]) == pytest.approx(2 * float(found[0][2]), rel=0.01)
    assert min(float(accuracy) for _, accuracy, _ in found) > 0.8


def test_a_task_of_ones_own(installed: Installed) -> None:
    """Machines stay whole, devices get data like their speeds, and the model knows machines it has not seen."""
    done = installed.start(str(EXAMPLES / "own_task.py"), "signals.npz")
    assert done.returncode == 0, done.stderr
    sizes = [int(size) for size in re.findall(r"worker \d: (\d+) signals", done.stdout)]
    assert sizes == [300, 120, 60, 60]
    machines = re.findall(r"\d+", " ".join(re.findall(r"machines \[(.*)\]", done.stdout)))
    assert sorted(map(int, machines)) == list(range(9))
    assert float(done.stdout.split()[-1]) > 0.75


RUN_NOTEBOOK = """
import json, sys
names = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), names)
figure = names["plt"].gcf()
print([len(line.get_xdata()) for line in figure.axes[0].lines])
"""


def test_the_notebook_runs_from_top_to_bottom(installed: Installed) -> None:
    """It holds no outputs; waiting for nobody takes a quarter of the time and is about as accurate."""
    path = EXAMPLES / "first_steps.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    done = installed.start("-c", RUN_NOTEBOOK, str(path))
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^([\w-]+): ([\d.]+) after ([\d.]+) virtual seconds$", done.stdout, flags=re.MULTILINE)
    accuracy, seconds = ({name: float(row[i]) for name, *row in found} for i in range(2))
    assert sorted(accuracy) == ["AL-DSGD", "blocking", "non-blocking"]
    assert min(accuracy.values()) > 0.8
    assert seconds["non-blocking"] == pytest.approx(seconds["blocking"] / 4)
    assert done.stdout.endswith("[60, 60]\n")
