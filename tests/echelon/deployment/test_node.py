"""A run with one of Echelon's nodes and one of Flower's SuperNodes, on this machine."""

import signal
from functools import partial
from pathlib import Path

import pytest

from app.task import build_model
from conf import compose
from tests.echelon.deployment.test_faults import folder, lines, loopback, processes
from tests.processes import wait_for

__all__ = ["folder"]

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(600)]

OVERRIDES = (
    "workers=2 strategy=d_psgd topology=ring partitioner=iid work.grace=30 eval_every=100 batch_size=64 wire=bf16"
)


def test_a_node_that_is_stopped_or_killed_and_comes_back(folder: Path) -> None:
    metrics = folder / "run" / "metrics.jsonl"
    with loopback(folder, database=False) as deployment:
        deployment.register("ours", "stock")
        deployment.start_node("stock", "rank=1 num-partitions=2", stock=True)

        start = partial(deployment.start_node, "ours", "rank=0 num-partitions=2")
        node = start()
        deployment.run(overrides=f"{OVERRIDES} rounds=1000 run_dir={metrics.parent}")
        wait_for(lambda: len(lines(metrics)) >= 2, 240)
        assert all(record["present"] == [0, 1] for record in lines(metrics))
        assert "travel to and from worker" not in deployment.log("run"), "both kinds of nodes take models in bfloat16"
        parameters = sum(each.numel() for each in build_model(compose([])).parameters())
        for record in lines(metrics)[:2]:
            assert 4 * parameters < record["uplink_bytes"] / 2 < 5 * parameters, "parameters and momentum"
        home = str(folder / "home-ours")
        assert len(processes(home, "app_process.py")) == 1, "it holds the app"
        assert not processes(home, "echelon.persistent.trainer"), "and trains in it"

        node.send_signal(signal.SIGTERM)
        assert node.wait(20) == 0
        wait_for(lambda: not processes(home), 5)
        reached = len(lines(metrics))
        node = start()
        wait_for(lambda: any(record["present"] == [0, 1] for record in lines(metrics)[reached + 1 :]), 120)
        assert node.poll() is None, "a node that has said good-bye is not refused"

        # test_faults.py waits for a killed one to come back.
        node.kill()
        node.wait()
        wait_for(lambda: not processes(home), 5)
    wait_for(lambda: not processes(str(folder)), 20)
