from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from flwr_datasets import FederatedDataset
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from clients import make_client_app
from clients.data import as_indexed, batches
from clients.errors import UserCodeError
from echelon.engines.inline import InlineGrid
from partitioners import StratifiedPartitioner
from partitioners.flwr_datasets_adapter import FlowerDatasetsPartitioner
from strategies import SGD, AllReduce
from tests import tiny

X, Y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])


class Own:
    def __len__(self) -> int:
        return 6

    def batch(self, indices: torch.Tensor, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return X[indices], Y[indices]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y.tolist(), strict=True))


@pytest.mark.parametrize(
    "data",
    [(X, Y), [X.numpy(), Y.numpy()], TensorDataset(X, Y), list(zip(X, Y.tolist(), strict=True)), Own()],
    ids=["tensors", "ndarrays", "dataset", "list of pairs", "own class"],
)
def test_what_a_user_may_return(data: Any) -> None:
    indexed = as_indexed(data)
    x, y = indexed.batch(torch.tensor([4, 0, 4]), np.random.default_rng(0))
    assert len(indexed) == 6
    assert x.tolist() == [[8, 9], [0, 1], [8, 9]]
    assert y.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(TensorDataset(X, Y), 4),
        DataLoader(TensorDataset(X, Y), 4, num_workers=1),
        datasets.Dataset.from_dict({"x": X.tolist(), "y": Y.tolist()}),
        {"x": X, "y": Y.numpy()},
        [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)],
        Stream(),
    ],
    ids=["loader", "loader that reads ahead", "hugging face", "dict", "list of dicts", "iterable"],
)
def test_what_else(data: Any) -> None:
    indexed = as_indexed(data)
    pieces = [torch.tensor([4, 0, 4]), torch.tensor([1])]
    for _ in range(2):
        found = list(batches(indexed, pieces, lambda: np.random.default_rng(0)))
        values = [tuple(batch.values()) if isinstance(batch, dict) else tuple(batch) for batch in found]
        assert [x.tolist() for x, _ in values] == [[[8, 9], [0, 1], [8, 9]], [[2, 3]]]
        assert [y.tolist() for _, y in values] == [[0, 0, 0], [1]]
    assert len(indexed) == 6


def test_inputs_alone() -> None:
    for data in (X, (X,)):
        assert as_indexed(data).batch(torch.tensor([1]), np.random.default_rng(0)).tolist() == [[2, 3]]


def test_rows_are_contiguous_whatever_the_order_of_the_strides() -> None:
    images = torch.rand(4, 8, 8, 3).permute(0, 3, 1, 2)
    x, _ = as_indexed((images, Y[:4])).batch(torch.tensor([2, 0]), np.random.default_rng(0))
    assert x.view(2, -1).shape == (2, 192)


@pytest.mark.parametrize("data", [None, 3, iter([]), "text", {}])
def test_what_is_refused(data: Any) -> None:
    with pytest.raises(UserCodeError, match=r"load_data must return \(inputs, labels\), a dict of tensors, a dataset"):
        as_indexed(data)


@pytest.mark.parametrize(
    "data",
    [(DataLoader(TensorDataset(X, Y)),) * 2, (TensorDataset(X, Y), TensorDataset(X, Y)), [Stream(), Stream()]],
)
def test_data_for_training_and_testing(data: Any) -> None:
    with pytest.raises(UserCodeError, match="load_data must return the data to train on; got 2 values, the first a"):
        as_indexed(data)


def test_columns_that_are_no_tensors() -> None:
    data = as_indexed(datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}))
    with pytest.raises(UserCodeError, match="a Hugging Face dataset with columns that are no tensors of equal shape"):
        data.batch(torch.tensor([0, 1]), np.random.default_rng(0))


def test_unequal_lengths() -> None:
    with pytest.raises(UserCodeError, match="load_data must return values of the same length; got 6, 5"):
        as_indexed((X, Y[:5]))


def test_a_stream_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.data._MOST_STREAMED", 5)
    with pytest.raises(UserCodeError, match="an iterable dataset of 5 samples or more, which would not fit in memory"):
        as_indexed(Stream())


def test_partitions_of_flower_datasets_train(tmp_path: Path) -> None:
    """A FederatedDataset read from a folder, divided by one of our partitioners."""
    x, y = tiny.data(40)
    rows = {"x": x.tolist(), "label": y.tolist()}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "data" / "train.parquet")
    by_ratio = FlowerDatasetsPartitioner(StratifiedPartitioner(), [3, 1], partition_by="label")
    federated = FederatedDataset(
        dataset=str(tmp_path / "data"), partitioners={"train": by_ratio}, cache_dir=str(tmp_path / "cache")
    )
    app = make_client_app(
        lambda rank, n: federated.load_partition(rank),
        tiny.linear,
        loss=lambda model, batch: functional.cross_entropy(model(batch["x"]), batch["label"]),
        reduction="mean",
        device="cpu",
        fleet=tiny.fleet(1.0),
    )
    losses: list[float] = []
    strategy = AllReduce(sgd=SGD(0.1), on_round=[lambda record, state: losses.append(record["train_loss"])])
    strategy.start(InlineGrid(app, 2), tiny.arrays(), 10)
    assert strategy.session.shard_sizes.tolist() == pytest.approx([30, 10], abs=2)
    assert losses[-1] < losses[0]
