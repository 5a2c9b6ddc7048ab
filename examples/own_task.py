"""Data of your own, as a task whose groups stay together: python examples/own_task.py signals.npz.

Writes the file in the layout of docs/tasks.md, then trains on it. In a checkout the same file serves every experiment:
python run_sim.py task=npz task.root=signals.npz partitioner=by_group.
"""

import logging
import sys
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor, nn

from echelon.clients import Device, Fleet, make_client_app
from echelon.engines.inline import InlineGrid
from echelon.partitioners import ByGroupPartitioner
from echelon.strategies import ALDSGD, SGD, NonBlocking
from echelon.tasks import build_model, evaluate, load

WORKERS, ROUNDS, MACHINES, SIGNALS = 4, 60, 12, 60
RATIOS = [4, 2, 1, 1]  # the relative speeds of the devices, which each get data in proportion
logging.getLogger("flwr").setLevel(logging.WARNING)


def record(machine: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return signals of one machine's sensor, each of 64 samples, and whether the machine ran well (0) or worn (1)."""
    rng = np.random.default_rng(machine)
    worn = np.arange(count) % 2
    turns = np.linspace(0, 2 * np.pi * rng.uniform(3, 5), 64) + 2 * np.pi * rng.random((count, 1))
    rattle = np.sin(4 * turns) * rng.uniform(0.2, 0.8, (count, 1)) * worn[:, None]
    signals = np.sin(turns) + rattle + rng.normal(0, 0.3, (count, 64))
    return signals.astype(np.float32), worn.astype(np.int64)


def write(path: Path) -> None:
    """Write the records of all machines; the last quarter of the machines is for testing."""
    arrays: dict[str, NDArray[np.generic]] = {"classes": np.array(["well", "worn"])}
    for split, machines in (("train", range(MACHINES * 3 // 4)), ("test", range(MACHINES * 3 // 4, MACHINES))):
        records = [record(machine, SIGNALS) for machine in machines]
        arrays[f"x_{split}"], arrays[f"y_{split}"] = map(np.concatenate, zip(*records, strict=True))
        arrays[f"record_{split}"] = np.repeat(list(machines), SIGNALS)
    np.savez(path, allow_pickle=False, **arrays)


path = Path(sys.argv[1])
write(path)
task = load("npz", path)
assert task.groups is not None
labels, machines = task.train.y.numpy(), task.groups.numpy()
parts = ByGroupPartitioner(machines)(labels, RATIOS, np.random.default_rng(0))
for rank, part in enumerate(parts):
    print(f"worker {rank}: {len(part)} signals of machines {np.unique(machines[part]).tolist()}")


def load_data(rank: int, num_workers: int) -> tuple[Tensor, Tensor]:
    """Return a worker's signals, scaled as the whole training set, and their classes."""
    inputs, classes = task.train.batch(parts[rank])
    return inputs, classes


def new_model() -> nn.Module:
    """Return one of the models for signals, the same at every worker."""
    model: nn.Module = build_model("cnn1d", task, seed=0)
    return model


fleet = Fleet(tuple(Device(100.0 * ratio) for ratio in RATIOS))
client_app = make_client_app(load_data, new_model, fleet=fleet)
work = NonBlocking(batch_size=64, minibatch_size=16)
strategy = ALDSGD("ring", work=work, sgd=SGD(learning_rate=0.2), eval_every=ROUNDS)
result = strategy.start(InlineGrid(client_app, WORKERS), ArrayRecord(new_model().state_dict()), ROUNDS)
assert result.arrays is not None
model = new_model()
model.load_state_dict(result.arrays.to_torch_state_dict())
print(f"accuracy on machines that no worker has: {evaluate(model, task.test)[1]:.3f}")
