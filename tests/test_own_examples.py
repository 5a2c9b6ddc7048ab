"""The examples of what users write themselves run from the wheel: scripts, and the notebook from top to bottom."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

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


def write_beats(path: Path) -> None:
    """Write noisy beats in the layout of docs/tasks.md: eight patients, and a wave for each of the four classes."""
    rng = np.random.default_rng(0)
    times = np.linspace(0, 1, 128)
    arrays: dict[str, NDArray[np.generic]] = {"classes": np.array(["N", "S", "V", "F"])}
    for split, count in (("train", 320), ("test", 80)):
        labels = np.arange(count) % 4
        waves = np.exp(-(((times - 0.2 * (labels[:, None] + 1)) / 0.06) ** 2))
        arrays[f"x_{split}"] = (waves + rng.normal(0, 0.1, (count, 128))).astype(np.float32)
        arrays[f"y_{split}"] = labels
        arrays[f"record_{split}"] = np.arange(count) // 4 % 8 + (8 if split == "test" else 0)
    np.savez(path, allow_pickle=False, **arrays)


RUN_HEARTBEATS = """
import json, pathlib, sys
import numpy as np, torch
root = pathlib.Path(sys.argv.pop(1))
sys.path.insert(0, str(root / "examples"))
import heartbeats
page = [row for row in (root / "docs/heartbeats.md").read_text().splitlines() if row.startswith("| ")]
rows = json.loads((root / "benchmarks/results/heartbeats.json").read_text())["rows"]
assert [heartbeats.line(*row) for row in rows.items()] == page[1:]
clean = np.exp(-((np.linspace(0, 1, 128) - 0.4) / 0.06) ** 2)[None].repeat(50, 0).astype(np.float32)
noisy = clean + np.random.default_rng(0).normal(0, 0.1, clean.shape).astype(np.float32)
restored = heartbeats.denoise(noisy)
assert restored.shape == noisy.shape and restored.dtype == np.float32
assert np.square(restored - clean).mean() < 0.5 * np.square(noisy - clean).mean()
assert np.abs(heartbeats.denoise(clean) - clean).max() < 0.01
network = heartbeats.cnn(4)
network(torch.zeros(1, 1, 128))
assert len([p for p in network.parameters() if p.dim() > 1]) == 7
heartbeats.main()
"""


def test_heartbeats_of_patients_that_stay_apart(installed: Installed) -> None:
    """Denoising removes noise and leaves beats alone; learners know simple waves; the page has the numbers."""
    write_beats(installed.user / "mitbih.npz")
    options = ("--workers", "4", "--rounds", "4", "--seeds", "0", "--out", "beats.json")
    done = installed.start("-c", RUN_HEARTBEATS, str(ROOT), "mitbih.npz", *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((installed.user / "beats.json").read_text(encoding="utf-8"))["rows"]
    assert [line.split(" | ")[0].lstrip("| ") for line in done.stdout.splitlines()[2:]] == list(rows)
    assert len(rows) == 3 + 2 * 5
    together = [row["accuracy"][0] for name, row in rows.items() if name.endswith("all patients together")]
    assert min(together[:4]) > 80  # what 64 steps teach; the LSTM needs more
    for network in ("7-layer CNN", "LSTM"):
        blocking, partial = (rows[f"{network}, all-reduce, {kind}"] for kind in ("blocking", "non-blocking"))
        assert (blocking["virtual_seconds"], partial["virtual_seconds"]) == ([2.6], [0.6])
