"""A strategy of your own, in random pairs, beside D-PSGD on a ring: python examples/own_strategy.py."""

import logging
from typing import Any

import networkx as nx
import numpy as np
import torch
from flwr.app import ArrayRecord
from sklearn.datasets import load_digits
from torch import Tensor, nn

from echelon.clients import Device, Fleet, make_client_app
from echelon.engines.inline import InlineGrid
from echelon.strategies import DPSGD, SGD, FlowerStrategy, Mixing, NonBlocking, Options, RoundNumbers

WORKERS, ROUNDS = 8, 100
digits = load_digits()
IMAGES, LABELS = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
logging.getLogger("flwr").setLevel(logging.WARNING)


class RandomPairs(FlowerStrategy):
    """The workers that are present form pairs, drawn anew in every round; the two of a pair average their models."""

    def mixing(self, numbers: RoundNumbers) -> Mixing:
        """Return the round's matrix, its graph, and how many models each worker sends."""
        order = np.random.default_rng([self.seed, numbers.round]).permutation(numbers.present).tolist()
        graph = nx.empty_graph(self.num_workers)
        graph.add_edges_from(zip(order[::2], order[1::2], strict=False))  # of an odd number, the last stays alone
        adjacency = nx.to_numpy_array(graph)
        sent = adjacency.sum(axis=1)
        return Mixing(adjacency / 2 + np.diag(1 - sent / 2), graph, sent)


def load_data(rank: int, num_workers: int) -> tuple[Tensor, Tensor]:
    """Return a worker's digits, most of them of one or two classes."""
    mine = (LABELS[:1500] % num_workers == rank) | (torch.arange(1500) % (4 * num_workers) == rank)
    return IMAGES[:1500][mine], LABELS[:1500][mine]


def build_model() -> nn.Module:
    """Return a small network, the same at every worker."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def accuracy(arrays: ArrayRecord) -> float:
    """Return the accuracy on digits that no worker has."""
    model = build_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    with torch.no_grad():
        correct = model(IMAGES[1500:]).argmax(1) == LABELS[1500:]
    return float(correct.float().mean())


fleet = Fleet((Device(400.0), Device(400.0), Device(200.0), Device(100.0)))
client_app = make_client_app(load_data, build_model, fleet=fleet)
work, sgd = NonBlocking(batch_size=64, minibatch_size=16), SGD(learning_rate=0.3)


def compare(strategy: FlowerStrategy) -> None:
    """Train under a strategy and print what came of it."""
    initial = ArrayRecord(build_model().state_dict())
    result = strategy.start(InlineGrid(client_app, WORKERS), initial, ROUNDS)
    assert result.arrays is not None
    seconds, sent = strategy.state.virtual_seconds, np.mean(RECORDS[-1]["peer_bytes"]) / 1e3
    print(
        f"{type(strategy).__name__}: accuracy {accuracy(result.arrays):.3f} after {seconds:.1f} virtual seconds; "
        f"each worker sends {sent:.1f} kB per round"
    )


RECORDS: list[dict[str, Any]] = []
options: Options = {
    "work": work,
    "sgd": sgd,
    "eval_every": ROUNDS,
    "on_round": [lambda record, _: RECORDS.append(record)],
}
compare(RandomPairs(**options))
compare(DPSGD("ring", **options))
