"""A task, models and an app so small that a round takes a few milliseconds, for tests through a real Grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from numpy.typing import NDArray
from torch import Tensor, nn

from clients import make_client_app
from clients.fleet import Device, Fleet, Jitter
from echelon.engines.inline import InlineGrid
from strategies import SGD, FlowerStrategy, NonBlocking, Partition

FEATURES = 5
CLASSES = 3
SPEED = 10.0  # samples per second of the reference device

Model = Callable[[], nn.Module]
Record = dict[str, Any]


def data(count: int = 96, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs of three overlapping classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=count)
    x = rng.normal(size=(count, FEATURES)) + np.eye(CLASSES, FEATURES)[y] * 1.5
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def _seeded(make: Model) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def linear() -> nn.Module:
    return _seeded(lambda: nn.Linear(FEATURES, CLASSES))


def batch_norm() -> nn.Module:
    """A model with BatchNorm's three buffers, one of them of integers."""
    return _seeded(
        lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)),
    )


def dropout() -> nn.Module:
    return _seeded(
        lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES)),
    )


def arrays(model: Model = linear) -> ArrayRecord:
    return ArrayRecord(model().state_dict())


def fleet(*speeds: float, jitter: Jitter | None = None, **options: Any) -> Fleet:
    """Devices at these speeds, in units of ``SPEED``, with free communication."""
    return Fleet(tuple(Device(speed * SPEED) for speed in speeds), jitter or Jitter(), **options)


def as_it_is(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """A mod: with any, models travel as named arrays."""
    return call_next(message, context)


def app(model: Model = linear, samples: int = 96, devices: Fleet | None = None, **options: Any) -> ClientApp:
    """A ClientApp whose workers reach the same pool of samples; a partition divides it."""
    pool = data(samples)
    chosen = {"device": "cpu", "fleet": devices or fleet(1.0), **options}
    return make_client_app(lambda rank, num_workers: pool, model, **chosen)


def grid(workers: int, model: Model = linear, samples: int = 96, devices: Fleet | None = None) -> InlineGrid:
    return InlineGrid(app(model, samples, devices), workers)


def partition(workers: int, samples: int = 96, sizes: Sequence[int] | None = None) -> Partition:
    """Shards of equal size, or of the sizes given."""
    order = np.random.default_rng(2).permutation(samples)
    if sizes is None:
        return Partition(np.array_split(order, workers))
    return Partition(np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1]))


def vector(record: ArrayRecord) -> NDArray[np.float64]:
    """All values of a model, in the order of its names."""
    return np.concatenate([array.numpy().reshape(-1).astype(np.float64) for array in record.values()])


WORK = NonBlocking(batch_size=16, minibatch_size=4)


@dataclass(frozen=True)
class Run:
    """What a finished run leaves."""

    strategy: FlowerStrategy
    result: Result
    records: list[Record]

    @property
    def rows(self) -> NDArray[np.float32]:
        return self.strategy.state.rows

    def column(self, name: str) -> list[Any]:
        return [record[name] for record in self.records]


def run(
    make: Callable[..., FlowerStrategy],
    rounds: int = 3,
    workers: int = 4,
    *,
    on: Grid | None = None,
    model: Model = linear,
    devices: Fleet | None = None,
    start: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Run a strategy on four devices, one at a half and one at a quarter of the speed, or on another grid.

    ``start`` goes to ``Strategy.start``, ``options`` to the strategy. Nothing is evaluated but the last round.
    """
    records: list[Record] = []
    chosen: dict[str, Any] = {
        "work": WORK,
        "sgd": SGD(0.2),
        "partition": partition(workers),
        "eval_every": rounds or 1,
        **options,
    }
    on_round = [lambda record, state: records.append(record), *chosen.pop("on_round", [])]
    strategy = make(on_round=on_round, **chosen)
    there = on or grid(workers, model, devices=devices or fleet(1, 1, 0.5, 0.25))
    result = strategy.start(there, arrays(model), rounds, **(start or {}))
    return Run(strategy, result, records)
