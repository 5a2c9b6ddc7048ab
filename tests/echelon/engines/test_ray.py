"""Flower's simulation engine: equivalence to the in-process engine, and failures."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from app.task import build_model
from conf import compose
from echelon.engines import ray
from echelon.server import checkpoint
from tests.processes import Family, wait_for
from tests.repository import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

DYING = """
import os
import sys
from pathlib import Path

from flwr.serverapp import ServerApp

from echelon.engines import ray
from strategies import DPSGD
from tests import tiny

died = Path(sys.argv[1])


def mod(message, context, call_next):
    if context.node_config["partition-id"] == 1 and not died.exists():
        died.touch()
        os._exit(1)
    return call_next(message, context)


server_app = ServerApp()


@server_app.main()
def main(grid, context):
    def tell(record, state):
        print("ROUND", record["present"], flush=True)

    strategy = DPSGD("ring", work=tiny.WORK, partition=tiny.partition(4), on_round=[tell])
    strategy.start(grid, tiny.arrays(), 8, evaluate_fn=lambda server_round, arrays: None)


ray.run(server_app, tiny.app(mods=[mod]), 4)
"""


def records(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def folder_of_ray() -> Iterator[Path]:
    """Make a folder for Ray's files, with a short path."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture
def family(tmp_path: Path, folder_of_ray: Path) -> Iterator[Family]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    made = Family(
        FLWR_HOME=str(tmp_path / "flower"),
        FLWR_LOCAL_SUPERLINK_HTTP_API_PORT=port,
        FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
        FLWR_DISABLE_UPDATE_CHECK="1",
        FLWR_TELEMETRY_ENABLED="0",
        RAY_TMPDIR=str(folder_of_ray),
        PYTHONPATH=str(ROOT),
    )
    yield made
    made.end()


def test_ray_agrees_with_inline(tmp_path: Path, family: Family) -> None:
    """On Ray in bundles of several workers, here by the loop."""
    for engine, batched in {"ray": "true", "inline": "false"}.items():
        arguments = [f"engine={engine}", f"engine.batched={batched}", f"run_dir={tmp_path / engine}"]
        arguments += ["rounds=5", "workers=8", "progress=none"]
        done = family.run(sys.executable, "run_sim.py", *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(tmp_path / engine)
    ray, inline = records(tmp_path / "ray"), records(tmp_path / "inline")
    assert "one after the other" not in (tmp_path / "ray" / "run.log").read_text()
    assert [r["train_loss"] for r in ray] == pytest.approx([r["train_loss"] for r in inline], abs=1e-4)
    assert [r["virtual_seconds"] for r in ray] == pytest.approx([r["virtual_seconds"] for r in inline])
    wait_for(lambda: not family.alive(), 30)


def test_the_apps_run_under_flwr_run(tmp_path: Path, family: Family) -> None:
    """As in the README: the run-config selects the training, and the run folder is the same."""
    overrides = f"topology=ring workers=4 partitioner=iid run_dir={tmp_path / 'run'}"
    settings = ["--run-config", f'strategy="d_psgd" rounds=2 overrides="{overrides}"', "--federation-config"]
    size = "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2"
    done = family.run("flwr", "run", ".", "local", "--stream", *settings, size)
    wait_for(lambda: (tmp_path / "run" / "summary.json").exists(), 60)
    assert [record["present"] for record in records(tmp_path / "run")] == [[0, 1, 2, 3]] * 2, done.stdout


def test_a_process_of_workers_that_dies_costs_them_a_round(tmp_path: Path, family: Family) -> None:
    """The process dies on the first train message of worker 1; the engine restarts it."""
    done = family.run(sys.executable, "-c", DYING, str(tmp_path / "died"))
    assert done.returncode == 0, done.stderr
    rounds = [line for line in done.stdout.splitlines() if line.startswith("ROUND")]
    assert len(rounds) == 8
    assert "1" not in rounds[0], "worker 1 is absent"
    assert rounds[-1] == "ROUND [0, 1, 2, 3]"


@pytest.fixture
def cluster(family: Family) -> Iterator[str]:
    """Start a Ray cluster of two nodes on this machine, with a core each; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    start = (str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1")
    head = family.start(*start, "--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false")
    wait_for(lambda: _answers(address))
    node = family.start(*start, f"--address={address}")
    wait_for(lambda: sum("raylet/raylet" in command for command in family.alive().values()) == 2)
    yield address
    family.end()
    for process in (head, node):
        process.communicate()


def test_a_cluster_of_two_nodes(cluster: str, tmp_path: Path, family: Family) -> None:
    arguments = ["workers=6", "rounds=2", "progress=none", "report=none", "wire=bf16"]
    losses, uplinks = [], []
    for name, engine in {"ray": ["engine=ray", f"engine.address={cluster}"], "inline": ["engine=inline"]}.items():
        done = family.run(sys.executable, "run_sim.py", *engine, *arguments, f"run_dir={tmp_path / name}")
        assert done.returncode == 0, done.stdout
        losses.append([record["train_loss"] for record in records(tmp_path / name)])
        uplinks.append([record["uplink_bytes"] for record in records(tmp_path / name)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)  # where a last bit differs, another value may be rounded
    assert uplinks[0] == uplinks[1]
    parameters = sum(each.numel() for each in build_model(compose([])).parameters())
    assert 4 * parameters < uplinks[0][0] / 6 < 5 * parameters, "parameters and momentum, in two bytes each"


def _alive(family: Family, process: "subprocess.Popen[str]") -> list[str]:
    """Return the commands that are running; fail with what the first one has said if it has ended."""
    assert process.poll() is None, process.communicate()
    return list(family.alive().values())


def _answers(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as trial:
        return trial.connect_ex((host, int(port))) == 0


def test_an_address_that_does_not_answer(tmp_path: Path, family: Family) -> None:
    arguments = ["engine.address=127.0.0.1:1", f"run_dir={tmp_path / 'run'}", "progress=none"]
    done = family.run(sys.executable, "run_sim.py", *arguments)
    assert done.returncode == 1
    assert "error: engine.address=127.0.0.1:1: no Ray cluster answers there (" in done.stdout
    assert "use engine=inline" in done.stdout


def test_it_says_that_ray_is_slow_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: object, **settings: object) -> None:
        time.sleep(0.5)

    monkeypatch.setattr("flwr.simulation.run_simulation", slow)
    monkeypatch.setattr(ray, "_SLOW_SECONDS", 0.1)
    said: list[str] = []
    ray.run(ServerApp(), ClientApp(), 1, say=said.append)
    assert said == ["Ray has not started after 0.1 s; engine=inline does without it"]


def test_an_engine_that_cannot_start_ends_in_one_line(tmp_path: Path, family: Family, folder_of_ray: Path) -> None:
    (folder_of_ray / "ray").mkdir()
    (folder_of_ray / "ray" / "ray_current_cluster").write_text("192.0.2.1:6379")  # of a cluster that is gone
    arguments = ["engine.num_cpus=1000", f"run_dir={tmp_path / 'run'}", "progress=none"]
    done = family.run(sys.executable, "run_sim.py", *arguments)
    assert done.returncode == 1
    *_, error, path = done.stdout.splitlines()  # after a remark, if the machine is busy
    assert error.startswith("error: Ray could not run the workers with engine.num_cpus=1000 and engine.num_gpus=0: ")
    assert path == str(tmp_path / "run")
    assert not done.stderr


def test_stopped_in_a_round_it_leaves_a_checkpoint_and_no_process(tmp_path: Path, family: Family) -> None:
    number = signal.SIGTERM
    folder = tmp_path / "run"
    arguments = [f"run_dir={folder}", "rounds=100000", "checkpoint_every=100000", "progress=none"]
    process = family.start(sys.executable, "run_sim.py", *arguments)
    wait_for(lambda: len(records(folder)) >= 3)
    # Ended by the signal itself, Ray's store would take the run with it before that is saved.
    assert [pid for pid in family.alive() if os.getpgid(pid) == process.pid] == [process.pid]
    os.killpg(process.pid, number)
    said, complained = process.communicate(timeout=15)
    assert (process.returncode, complained) == (128 + number, "stopping ...\n")
    *_, line, path = said.splitlines()
    assert line == f"interrupted; to continue: python run_sim.py resume={folder}"
    assert path == str(folder)
    assert [record["round"] for record in records(folder)] == list(range(1, len(records(folder)) + 1))
    assert checkpoint.load(folder / "checkpoint").round == len(records(folder))
    wait_for(lambda: not family.alive(), 10)


def test_killed_it_leaves_no_process(tmp_path: Path, family: Family) -> None:
    """Ray's agents do not always notice, and overwrite the environment by which they are known."""
    folder = tmp_path / "run"
    process = family.start(sys.executable, "run_sim.py", f"run_dir={folder}", "rounds=100000", "progress=none")
    wait_for(lambda: len(records(folder)) >= 1)
    # They start beside the first rounds, and take their names later.
    wait_for(lambda: sum("Agent" in command for command in _alive(family, process)) >= 2)
    process.kill()
    process.communicate(timeout=15)
    wait_for(lambda: not family.alive(), 15)


def test_stopped_while_ray_starts(tmp_path: Path, family: Family) -> None:
    folder = tmp_path / "run"
    process = family.start(sys.executable, "run_sim.py", f"run_dir={folder}", "progress=none")
    wait_for(lambda: any("raylet/raylet" in command for command in family.alive().values()))
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    said, complained = process.communicate(timeout=15)
    assert (process.returncode, complained) == (143, "stopping ...\n")
    assert said.splitlines()[-2].startswith("interrupted; ")
    wait_for(lambda: not family.alive(), 10)
