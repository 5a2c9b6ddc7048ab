"""The wheel in an environment of its own, beside a user's modules of the same names as the checkout's folders."""

import ast
import difflib
import re
import zipfile
from pathlib import Path

import pytest

from echelon.deployment.kit.software import write_wheel
from tests.installation import Installed
from tests.processes import Family
from tests.repository import EXTENDED, ROOT, repository_files


def test_holds_the_library_under_one_name_and_nothing_else(installed: Installed) -> None:
    files = [str(path) for path in repository_files()]
    expected = {name for name in files if re.match(r"echelon/.*(\.(py|typed|css|js|html)|/templates/.*)$", name)}
    expected |= {f"echelon/{name}" for name in files if re.match(rf"({'|'.join(EXTENDED)})/.*\.py$", name)}
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert sorted({name.split("/")[0].split("-")[0] for name in names}) == ["echelon", "flwr_echelon"]


def test_a_users_own_modules_stay_theirs(installed: Installed) -> None:
    program = (
        "import strategies, algorithms, tasks, clients, conf, echelon\n"
        "from echelon.strategies import ALDSGD, REGISTRY\n"
        "from echelon.clients import make_client_app\n"
        "from echelon.partitioners import SubmodularPartitioner\n"
        "from echelon.tasks import load\n"
        "assert all(m.MINE == 1 for m in (strategies, algorithms, tasks, clients, conf))\n"
        "print(echelon.__file__, REGISTRY['al_dsgd'] is ALDSGD, len(load('digits').train))"
    )
    done = installed.run(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed.site / "echelon" / "__init__.py"), "True", "1442"]


def test_every_module_can_be_imported(installed: Installed) -> None:
    program = (
        "import importlib, pkgutil, echelon\n"
        "names = [m.name for m in pkgutil.walk_packages(echelon.__path__, 'echelon.')]\n"
        "optional = ('flwr_datasets_adapter', '__main__')\n"
        "for name in names:\n"
        "    if not name.endswith(optional): importlib.import_module(name)\n"
        "print(len(names))"
    )
    done = installed.run(program)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_readme_run(installed: Installed, number: int) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    done = installed.run(blocks[number])
    assert done.returncode == 0, done.stderr
    assert ("train_loss", "[225, 224, 449, 899]")[number] in done.stdout


@pytest.mark.parametrize("module", ["fedavg_client", "fedavg_server"])
def test_the_flower_app_of_the_benchmark_can_be_imported(installed: Installed, module: str) -> None:
    folder = ROOT / "benchmarks" / "flower_fedavg"
    done = installed.run(f"import sys; sys.path.insert(0, {str(folder)!r}); import {module}; print({module}.app)")
    assert done.returncode == 0, done.stderr


def test_the_command(installed: Installed) -> None:
    (entry_points,) = installed.site.glob("flwr_echelon-*.dist-info/entry_points.txt")
    assert "echelon = echelon.__main__:main" in entry_points.read_text(encoding="utf-8")
    done = installed.run("from echelon.__main__ import main; main(['versions'])")
    assert done.stdout.startswith("python 3."), done.stderr


def test_a_kit_made_from_it_holds_the_same_wheel(installed: Installed) -> None:
    program = (
        "from pathlib import Path\n"
        "from echelon.deployment.kit.software import write_wheel\n"
        "Path('kit').mkdir()\n"
        "print(write_wheel(Path('kit')).resolve())"
    )
    done = installed.run(program)
    assert done.returncode == 0, done.stderr
    wheels = {}
    # The second is written from this checkout.
    for path in (installed.wheel, Path(done.stdout.strip()), write_wheel(installed.user)):
        assert path.name == installed.wheel.name
        with zipfile.ZipFile(path) as archive:
            wheels[path] = {name: archive.read(name) for name in archive.namelist() if name.startswith("echelon/")}
            metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
            assert archive.read(metadata).startswith(b"Metadata-Version: ")
    assert len({frozenset(each.items()) for each in wheels.values()}) == 1


def _lines(name: str) -> list[str]:
    return (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()[1:]  # without the docstring


def test_peers_take_five_lines() -> None:
    plain = [line for line in _lines("train_ddp.py") if "DistributedDataParallel" not in line]
    added = [line[2:] for line in difflib.ndiff(plain, _lines("train_peer.py")) if line.startswith("+ ")]
    assert len([line for line in added if line.strip()]) == 5


# Five rounds of examples/flower_app; a mini-batch takes 1 s at two nodes and 4 s at the third, by a clock of its own.
RUN_APP = """
import sys
sys.path.insert(0, "FOLDER")
from flwr.app import Context, RecordDict
import echelon.core.clocks
from echelon.engines.inline import InlineGrid
from digits_app import client_app, server_app

now, minibatches = [0.0], [[], [], []]
echelon.core.clocks.time.perf_counter = lambda: now[0]

class Counted:
    def __init__(self, loader, rank):
        self.loader, self.rank, self.dataset = loader, rank, loader.dataset
    def __len__(self):
        return len(self.loader)
    def __iter__(self):
        minibatches[self.rank].append(0)
        for batch in self.loader:
            yield batch
            now[0] += 4.0 if self.rank == 2 else 1.0
            minibatches[self.rank][-1] += 1

load_data = client_app.load_data
def counted(rank, *others):
    train, test = load_data(rank, *others)
    return Counted(train, rank), test

client_app.load_data = counted
config = {"num-server-rounds": 5, "local-epochs": 1, "batch-size": 16, "learning-rate": 0.1}
grid = InlineGrid(client_app.app, 3, config)
server_app.app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config))
print(minibatches)
"""


def _changed(files: dict[str, str]) -> dict[str, str]:
    """Return files with the difference that docs/client.md shows taken back."""
    text = (ROOT / "docs/client.md").read_text(encoding="utf-8")
    (diff,) = re.findall(r"```diff\n(.*?)```", text, flags=re.DOTALL)
    plain = dict(files)
    for name, changes in re.findall(r"^--- (\S+)\n(.*?)(?=^---|\Z)", diff, flags=re.DOTALL | re.MULTILINE):
        for hunk in changes.split("@@\n")[1:]:
            lines = hunk.splitlines()
            before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in (" -", " +"))
            assert plain[name].count(after) == 1, hunk
            plain[name] = plain[name].replace(after, before)
    return plain


@pytest.mark.parametrize("is_plain", [True, False])
def test_the_flower_app_is_a_plain_one_but_for_the_lines_in_the_docs(installed: Installed, is_plain: bool) -> None:
    """Without them it runs under FedAvg and knows nothing of Echelon; with them, it does not wait for a slow node."""
    folder = ROOT / "examples" / "flower_app"
    files = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    plain = _changed(files)
    assert "echelon" not in "".join(plain.values()).lower()
    for name, text in (plain if is_plain else files).items():
        path = installed.user / f"plain_{is_plain}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    done = installed.run(RUN_APP.replace("FOLDER", f"plain_{is_plain}"))
    assert done.returncode == 0, done.stderr
    minibatches = ast.literal_eval(done.stdout.splitlines()[-1])
    whole_pass = 30
    if is_plain:
        assert minibatches == [[whole_pass] * 5] * 3
    else:
        assert minibatches == [[20, 20, 20, 20, 20]] * 2 + [[20, 5, 5, 5, 5]]
        assert "round 5: accuracy 0." in done.stdout


@pytest.mark.deployment
def test_the_examples_run_under_torchrun(installed: Installed) -> None:
    """Both at once, which takes half the time; what torchrun leaves behind, if it is killed, is ended too."""
    family = Family(**installed.environment)
    launcher = (*installed.python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    scripts = [str(ROOT / "examples" / name) for name in ("train_ddp.py", "train_peer.py")]
    try:
        started = [family.start(*launcher, *installed.python, script) for script in scripts]
        ended = [process.communicate(timeout=200) for process in started]
    finally:
        family.end()
    for process, (said, complained) in zip(started, ended, strict=True):
        assert process.returncode == 0, complained
        accuracies = [float(value) for value in re.findall(r"worker [01]: test accuracy ([\d.]+)", said)]
        assert len(accuracies) == 2
        assert min(accuracies) > 0.85


def test_adapters_alone_travel(installed: Installed) -> None:
    """examples/lora_adapters.py: nothing travels but the adapters and the headers of their arrays."""
    done = installed.run((ROOT / "examples" / "lora_adapters.py").read_text(encoding="utf-8"))
    assert done.returncode == 0, done.stderr
    size, whole = map(float, re.findall(r"([\d.]+) MB", done.stdout)[:2])
    sent = {float(number) for number in re.findall(r"([\d.]+) MB each", done.stdout)}
    assert size <= min(sent)
    assert max(sent) < size + 0.004 < whole / 4
    assert "mini-batches [8, 8, 4, 2]" in done.stdout
    assert float(done.stdout.split()[-1]) > 0.75
