"""Faults in a deployment on this machine, and how the run continues."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from echelon.deployment.credentials import make_node_key
from echelon.deployment.loopback import Loopback
from tests.processes import wait_for

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(600)]

NODES = ("supernode-0", "supernode-1", "supernode-2")
SENDING = 10.0  # seconds that a busy machine needs to push a round's messages
FLOWER_GIVES_UP = 44.0  # seconds after which the SuperLink itself reports that a node is gone


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="echelon-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextmanager
def loopback(folder: Path, **options: Any) -> Iterator[Loopback]:
    """Run a deployment; a failed test shows what the run said."""
    with Loopback(folder, **options) as deployment:
        try:
            yield deployment
        except BaseException:
            print(deployment.log("run"))
            raise


def start(deployment: Loopback, *names: str, stock: bool = False) -> None:
    for name in names:
        rank = NODES.index(name)
        config = f"rank={rank} num-partitions={len(NODES)} samples-per-second={256 >> rank}"
        deployment.start_node(name, config, stock=stock)


def is_back(deployment: Loopback, name: str, metrics: Path) -> bool:
    """Return whether a killed node participates again; the SuperLink refuses it until it has noticed the failure."""
    if not deployment.is_running(name):
        start(deployment, name)
    return bool(lines(metrics)[-1]["present"] == list(range(len(NODES))))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_bad_replies_cost_their_worker_a_round_and_no_more(folder: Path) -> None:
    """An exception, NaN, a wrong shape, a hanging worker (``faulty_client.py``); trainers exit with their nodes."""
    out = folder / "rounds.jsonl"
    with loopback(folder, app=Path(__file__).parent / "faulty") as deployment:
        deployment.register(*NODES)
        start(deployment, *NODES, stock=True)
        deployment.run(out=str(out))
        wait_for(lambda: any(record["present"] == [0, 1, 2] for record in lines(out)[5:]), 300)
        rounds = lines(out)
        assert len(processes(str(folder), "echelon.persistent.trainer")) == 3, "one trainer process per SuperNode"
    wait_for(lambda: not processes(str(folder)), 20)
    assert rounds[1]["present"] == [1, 2]
    assert rounds[2]["present"] == [0, 2]
    assert rounds[3]["present"] == [0, 1]
    assert rounds[4]["present"] == [1, 2], "worker 0 hangs: the round ends at its deadline and grace"
    assert [record["rejected"] for record in rounds[:5]] == [0, 1, 1, 1, 0]
    assert 25 < rounds[4]["wall_seconds"] - rounds[3]["wall_seconds"] < 45
    assert all(record["present"] == [1, 2] for record in rounds[5:-1]), "it is not asked before it has answered"


def test_nodes_and_superlink_that_die_and_come_back(folder: Path) -> None:
    run_dir = folder / "run"
    metrics = run_dir / "metrics.jsonl"
    overrides = [
        *("workers=3", "strategy=d_psgd", "topology=ring", "partitioner=iid", "checkpoint_every=1", "work.grace=10"),
        *("eval_every=100", "batch_size=256"),
    ]
    with loopback(folder) as deployment:
        deployment.register(*NODES)
        make_node_key(folder / "stranger")
        stranger = deployment.start_node("stranger", "rank=0 num-partitions=3")
        start(deployment, *NODES)
        deployment.run(overrides=" ".join([*overrides, "rounds=1000", f"run_dir={run_dir}"]))
        wait_for(lambda: len(lines(metrics)) >= 2, 150)
        assert stranger.wait(30) != 0, "a node whose key is not registered is refused"
        waits = []
        for record in lines(metrics):
            done, seconds = record["minibatches"], record["compute_seconds"]
            assert None in done or 1 <= done[2] < done[0], "worker 2 sleeps in its mini-batches, and does less"
            waits.append(max(filter(None, seconds)) / record["budget_seconds"])
        assert median(waits) <= 1.25, "no worker waits for it"

        deployment.kill(NODES[2])
        earlier = len(lines(metrics))
        wait_for(lambda: any(2 not in record["present"] for record in lines(metrics)[earlier:]), 90)
        without = next(record for record in lines(metrics)[earlier:] if 2 not in record["present"])
        before = lines(metrics)[without["round"] - 2]["wall_seconds"]
        assert without["present"], "the others continue"
        allowed = without["budget_seconds"] + without["grace_seconds"] + SENDING
        assert without["wall_seconds"] - before < min(allowed, FLOWER_GIVES_UP), "the round ends at budget and grace"

        wait_for(lambda: is_back(deployment, NODES[2], metrics), 150)

        deployment.kill("superlink")
        wait_for(lambda: not processes(str(folder), "flwr-serverapp"), 30)
        deployment.start_superlink()
        reached = len(lines(metrics))
        said = " ".join([*overrides, f"rounds={reached + 3}", f"resume={run_dir}"])

        # The nodes reconnect to the SuperLink, which knows them from its database, each in its own time.
        following = deployment.run(overrides=said)
        following.wait(200)
        summary = run_dir / "summary.json"
        assert summary.exists(), deployment.log("run")
        assert json.loads(summary.read_text())["rounds"] == reached + 3
    wait_for(lambda: not processes(str(folder)), 20)
    rounds = [record["round"] for record in lines(metrics)]
    assert rounds == list(range(1, len(rounds) + 1)), "nothing is there twice"
    assert len(rounds) == reached + 3


def processes(mark: str, command: str = "") -> list[int]:
    """Return the processes of a deployment (identified by their Flower home) that run a command."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment, line = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment and command.encode() in line:
            found.append(int(process.name))
    return found
