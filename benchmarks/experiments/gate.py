"""Where leaders help and where they hurt: ``python -m benchmarks.experiments.gate --root data --seeds 5``.

D-PSGD on the rotating G0 without leaders and with four choices of them, in eight situations: shards alike, shards of
two classes per worker, workers with wrong labels or few samples, workers that begin with different models, stragglers
(Fashion-MNIST, 10,000 training samples), and heartbeats by patient. Eight workers, one step per round.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MessageType
from flwr.clientapp import ClientApp
from torch import Tensor

from app.fleet import make_fleet
from app.task import TaskData, build_model, load_task
from benchmarks.experiments.paired import CONSENSUS, WORKERS, Case, compare
from benchmarks.experiments.runner import arguments, keep
from clients import make_client_app, rank_of
from conf import Config
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import ARRAYS, CONFIG

RESULTS = Path(__file__).parents[1] / "results" / "gate.json"
COMMON = [
    *("task=fashion_mnist", "model=mlp", "task.train_limit=10000", "task.test_limit=1000", "topology=g0_rotating"),
    *("rounds=150", "eval_every=10", "batch_size=32", "minibatch_size=32", "evaluate_workers=all", "workers=8"),
    *("learning_rate=0.05", "momentum=0.9", "weight_decay=0.0001"),
]
EQUAL = ["fleet=uniform", "work=full_batch"]
ALIKE = ["partitioner=stratified"]
FEW = [24 / 10_000] * 3 + [(1 - 72 / 10_000) / 5] * 5
SITUATIONS = {
    "IID": [*EQUAL, *ALIKE],
    "different initial models": [*EQUAL, *ALIKE],
    "noisy labels on 3 of 8": [*EQUAL, *ALIKE],
    "one bad worker": [*EQUAL, *ALIKE],
    "24 samples on 3 of 8": [*EQUAL, *ALIKE, f"partitioner.ratios=[{','.join(map(str, FEW))}]"],
    "stragglers": ["fleet=stragglers", "work=non_blocking", "minibatch_size=8", *ALIKE],
    "two classes each": [*EQUAL, "partitioner=shards", "partitioner.classes_per_worker=2"],
    "MIT-BIH by patient": [*EQUAL, "task=mitbih", "model=cnn1d", "partitioner=by_group"],
}
LEADERS = {
    "none": ["strategy=d_psgd"],
    "train_loss": ["strategy=al_dsgd", "strategy.signal=train_loss"],
    "held_out": ["strategy=al_dsgd", "strategy.gate=false"],
    "held_out, gate": ["strategy=al_dsgd"],
    "random": ["strategy=al_dsgd", "strategy.signal=random"],
}
# Share of wrong labels by rank.
WRONG: Mapping[str, Mapping[int, float]] = {
    "noisy labels on 3 of 8": dict.fromkeys(range(3), 0.7),
    "one bad worker": {0: 1.0},
}


class Mislabelled(TaskData):
    """Training samples, a share of them with another class than their own.

    Parameters
    ----------
    config : Config
    share : float
        Of the samples, in [0, 1].
    """

    def __init__(self, config: Config, share: float) -> None:
        task = load_task(config, config.task.root)
        super().__init__(task)
        draw = np.random.default_rng(config.seed)
        classes, samples = int(task.train.y.max()) + 1, len(task.train)
        shift = np.where(draw.random(samples) < share, draw.integers(1, classes, samples), 0)
        self._labels = (task.train.y + torch.from_numpy(shift)) % classes

    def batch(self, indices: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the given samples."""
        return super().batch(indices, generator)[0], self._labels[indices]


class OwnStart(ClientApp):
    """A ClientApp whose workers begin with a model of their own, whatever the server sends in the first round."""

    def __init__(self, config: Config, app: ClientApp) -> None:
        super().__init__()
        self._config, self._app = config, app

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        content = message.content
        if message.metadata.message_type == MessageType.TRAIN and content.config_records[CONFIG]["server-round"] == 1:
            own = build_model(replace(self._config, seed=self._config.seed + 1000 * (rank_of(context) + 1)))
            arrays = ArrayRecord(own.state_dict())
            layout = ArrayLayout(arrays).form(rows=True)
            content[ARRAYS] = layout.write(layout.row(arrays), layout.exact(arrays))
        return self._app(message, context)


def make_app(situation: str, config: Config) -> ClientApp:
    """Return the workers of a situation."""

    def load_data(context: Context) -> TaskData:
        share = WRONG.get(situation, {}).get(rank_of(context))
        return TaskData(load_task(config, config.task.root)) if share is None else Mislabelled(config, share)

    app = make_client_app(load_data, lambda: build_model(config), device="cpu", fleet=make_fleet(config))
    return OwnStart(config, app) if situation == "different initial models" else app


def main() -> None:
    """Run the sweep, print its tables and keep their numbers."""
    options = arguments(__doc__ or "")
    found = {}
    for situation, keys in SITUATIONS.items():
        common = [*COMMON, f"task.root={options.root}", *keys]
        cases: dict[Case, list[str]] = {(name,): [*common, *own] for name, own in LEADERS.items()}
        found[situation] = compare(
            f"gate/{situation}",
            ("leaders",),
            cases,
            options,
            accuracies={**CONSENSUS, **WORKERS},
            make_app=partial(make_app, situation),
        )
    keep(RESULTS, options, found)


if __name__ == "__main__":
    main()
