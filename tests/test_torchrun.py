"""engine=torch in processes that torchrun has started on two machines, as examples/slurm.sh does."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_sim
from conf import cli
from echelon.server import checkpoint
from tests.processes import Family, wait_for
from tests.repository import ROOT

RUN = ["strategy=d_psgd", "topology=ring", "workers=4", "model=mlp", "partitioner=iid", "report=none", "progress=none"]
EVERY = 40
# What Slurm's own do; every node has a folder of its own, and in it the checkout.
SCONTROL = "#!/bin/sh\necho 127.0.0.1\n"
SRUN = '#!/bin/bash\nfor node in node0 node1; do (cd "../$node" && exec "$@") & done\nwait\n'


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NODELIST": "n[0-1]"}
    family = Family(**job, PORT=str(port))
    family.environment["PATH"] = f"{tmp_path}{os.pathsep}{family.environment['PATH']}"
    yield family
    family.end()


def records(folder: Path) -> list[dict[str, Any]]:
    """Return what is written of the rounds, but for the time that they took here."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [{name: value for name, value in json.loads(line).items() if name != "wall_seconds"} for line in lines]


def ranks(family: Family, rank: int) -> list[int]:
    """Return the running processes that torchrun has given a rank."""
    wanted = f"RANK={rank}".encode()
    return [
        pid
        for pid, command in family.alive().items()
        if "run_sim.py" in command and wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]


def agents(family: Family) -> list[int]:
    return [pid for pid, command in family.alive().items() if "bin/torchrun" in command]


@pytest.mark.deployment
def test_a_killed_rank_a_restart_and_an_orderly_end(tmp_path: Path, family: Family) -> None:
    """The machines share no folder: each has its workers' part of the checkpoints."""
    nodes = [tmp_path / "node0", tmp_path / "node1"]
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for node in nodes:
        node.mkdir()
        for name in (".venv", "run_sim.py"):
            (node / name).symlink_to(ROOT / name)
    script = [str(ROOT / "examples" / "slurm.sh"), *RUN, "rounds=1000000", "eval_every=1000000"]
    command = f'cd {nodes[0]} && exec "$@"'
    process = family.start("bash", "-c", command, "bash", *script, f"checkpoint_every={EVERY}")
    runs = [node / "runs" / "slurm-7" for node in nodes]
    wait_for(lambda: any(len(records(run)) > 1.5 * EVERY for run in runs))
    runs.sort(key=lambda run: not records(run))  # that of the first process
    killed = ranks(family, 1)
    os.kill(killed[0], signal.SIGKILL)
    wait_for(lambda: ranks(family, 1) != killed)
    before = records(runs[0])
    assert len(before) > EVERY
    wait_for(lambda: len(records(runs[0])) > len(before))
    assert records(runs[0])[: len(before)] == before, "rounds that are done again have the same records"
    for pid in agents(family):
        os.kill(pid, signal.SIGTERM)
    _, complained = process.communicate(timeout=60)
    assert "torchrun has started the processes again; the run in runs/slurm-7 goes on" in complained
    wait_for(lambda: not family.alive(), 10)
    reached = len(records(runs[0]))
    assert [record["round"] for record in records(runs[0])] == list(range(1, reached + 1))
    assert sorted(path.name for path in (runs[1] / "checkpoint").iterdir()) == ["worker-2", "worker-3"]
    shutil.copytree(runs[1] / "checkpoint", runs[0] / "checkpoint", dirs_exist_ok=True)
    found = checkpoint.load(runs[0] / "checkpoint")
    assert found.round == reached, "what was reached was saved before the end"
    inline = ["engine=inline", *RUN, f"rounds={reached}", "eval_every=1000000", f"run_dir={tmp_path / 'inline'}"]
    assert cli.main(run_sim.run, inline) == 0
    np.testing.assert_allclose(found.rows, checkpoint.load(tmp_path / "inline" / "checkpoint").rows, rtol=0, atol=1e-5)
