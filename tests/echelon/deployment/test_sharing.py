"""SuperNodes that several runs share, and a SuperNode too many."""

from pathlib import Path

import pytest

from echelon.deployment.loopback import Loopback
from tests.echelon.deployment.test_faults import folder, lines, loopback, processes
from tests.processes import wait_for

__all__ = ["folder"]

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]

NODES = ("supernode-0", "supernode-1", "supernode-2")
OVERRIDES = "workers=2 strategy=d_psgd topology=ring partitioner=iid work.grace=60 eval_every=100 batch_size=64"


def test_two_runs_at_once_and_a_node_too_many(folder: Path) -> None:
    """The third node claims a rank that is taken; one of the runs lists the nodes."""
    runs = {"first": folder / "first", "second": folder / "second"}
    with loopback(folder) as deployment:
        ids = {name: deployment.register(name)[0] for name in NODES}
        ranks = {"supernode-0": 0, "supernode-1": 1, "supernode-2": 1}
        for name, rank in ranks.items():
            deployment.start_node(name, f"rank={rank} num-partitions=2")
        listed = f"nodes=[{','.join(str(ids[name]) for name in NODES)}]"
        following = {
            name: deployment.run(
                overrides=f"{OVERRIDES} rounds=1000 run_dir={path} {listed if name == 'second' else ''}"
            )
            for name, path in runs.items()
        }

        def both_reach(count: int) -> bool:
            assert all(process.poll() is None for process in following.values())
            return all(len(lines(path / "metrics.jsonl")) >= count for path in runs.values())

        wait_for(lambda: both_reach(2), 300)
        earlier = [trainers(folder, name) for name in NODES[:2]]
        reached = max(len(lines(path / "metrics.jsonl")) for path in runs.values())
        wait_for(lambda: both_reach(reached + 1), 200)
        assert [len(pids) for pids in earlier] == [2, 2], "each run has a trainer on each of its nodes"
        assert [trainers(folder, name) for name in NODES[:2]] == earlier, "and keeps it"
        for path in runs.values():
            rounds = lines(path / "metrics.jsonl")
            assert all(record["rejected"] == 0 for record in rounds)
            assert rounds[-1]["present"] == [0, 1]
        assert left_out(deployment, ids["supernode-2"]) == 2, "once per run"


def trainers(folder: Path, node: str) -> set[int]:
    return set(processes(str(folder / f"home-{node}"), "app_process.py"))


def left_out(deployment: Loopback, node_id: int) -> int:
    return deployment.log("run").count(f"Node {node_id} is left out: it claims rank 1, but")
