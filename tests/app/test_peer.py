"""What a process of a run without a server writes into the folder of its machine."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from app.peer import Saved, Steps
from echelon.engines.peers import PeerRun
from echelon.peer.group import Group
from echelon.reports.run_folder import RunFolder
from tests import tiny
from tests.echelon.engines.runs import OWNERS, WORKERS, parts
from tests.pool import Pool


class Alone(Group):
    """Processes that share no folder."""

    fresh = ()


def ended(folder: Path) -> dict[int, dict[str, NDArray[Any]]]:
    """Do a round, the best so far, and end the run; return the models of this process's workers."""
    group = Alone(OWNERS)
    run, path = PeerRun(parts("d_psgd", "non_blocking"), group), folder / str(group.process)
    if group.is_first:
        RunFolder.create(path, "workers: 4\n").close()
    path.mkdir(exist_ok=True)
    steps = Steps(run, group, path, Saved(None), stops_early=True)  # type: ignore[arg-type]
    record = run.round() | run.evaluate()
    if group.is_first:
        RunFolder(path).append_metrics(record)
    steps.best()
    steps.close()
    return {rank: {name: array.numpy() for name, array in own.items()} for rank, own in run.own_models().items()}


def test_each_worker_keeps_its_model_at_its_site(three: Pool, tmp_path: Path) -> None:
    found = three.call(ended, tmp_path)
    assert {rank for of_process in found for rank in of_process} == set(range(WORKERS))
    for process, of_process in enumerate(found):
        files = {path.name: path for path in (tmp_path / str(process) / "models").iterdir()}
        own = {f"worker_{rank}{of}.safetensors" for rank in of_process for of in ("", "_best_round")}
        whole = {f"{name}.safetensors" for name in ("consensus", "best_round", "best_worker")}
        assert files.keys() == own | (whole if process == 0 else set())
        for rank, model in of_process.items():
            for of in ("", "_best_round"):
                kept = load_file(files[f"worker_{rank}{of}.safetensors"])
                assert kept.keys() == tiny.batch_norm().state_dict().keys()
                for name, values in model.items():
                    np.testing.assert_array_equal(kept[name], values)
