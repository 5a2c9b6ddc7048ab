"""The ClientApp through a Grid: forms of load_data, and Flower's own strategies."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from clients import make_client_app, rank_of
from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import ARRAYS, CONFIG, METRICS, ROSTER_QUERY, RosterEntry, TrainInstructions
from strategies import SGD, AllReduce, FullBatch
from tests import tiny

X, Y = tiny.data()


def ask(grid: InlineGrid, kind: str = f"query.{ROSTER_QUERY}", arrays: bool = False) -> list[Message]:
    """Query every node; return the replies by rank."""
    content = RecordDict({CONFIG: TrainInstructions(batch_size=8, minibatch_size=8).to_config()})
    if arrays:
        content[ARRAYS] = tiny.arrays()
    messages = [Message(content, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()]
    return list(grid.send_and_receive(messages))


def entries(grid: InlineGrid) -> list[RosterEntry]:
    return [RosterEntry.from_content(reply.content) for reply in ask(grid)]


def load_by_rank(rank: int, num_workers: int) -> tuple[Tensor, Tensor]:
    return X[rank::num_workers][: 20 + rank], Y[rank::num_workers][: 20 + rank]


def load_by_context(context: Context) -> tuple[Tensor, Tensor]:
    return load_by_rank(rank_of(context), int(context.node_config["num-partitions"]))


@pytest.mark.parametrize("load", [load_by_rank, load_by_context])
def test_load_data_gets_rank_and_number_or_the_context(load: Any) -> None:
    grid = InlineGrid(make_client_app(load, tiny.linear, device="cpu", fleet=tiny.fleet(1.0)), 3)
    assert [(entry.rank, entry.num_examples) for entry in entries(grid)] == [(0, 20), (1, 21), (2, 22)]


def test_data_is_loaded_once_per_rank() -> None:
    loaded: list[int] = []

    def load(rank: int, num_workers: int) -> tuple[Tensor, Tensor]:
        loaded.append(rank)
        return X, Y

    grid = InlineGrid(make_client_app(load, tiny.linear, device="cpu"), 3)
    ask(grid, "train", arrays=True)
    ask(grid, "train", arrays=True)
    ask(grid)
    assert loaded == [0, 1, 2]


def test_two_apps_in_one_process_keep_apart() -> None:
    small = make_client_app(lambda rank, n: (X[:10], Y[:10]), tiny.linear, device="cpu", fleet=tiny.fleet(1.0))
    large = make_client_app(lambda rank, n: (X[:50], Y[:50]), tiny.linear, device="cpu", fleet=tiny.fleet(1.0))
    grids = [InlineGrid(app, 1) for app in (small, large, small)]
    assert [entries(grid)[0].num_examples for grid in grids] == [10, 50, 10]


@pytest.mark.parametrize(
    ("node_config", "rank"), [({"rank": 4}, 4), ({"partition-id": 2}, 2), ({"rank": 1, "partition-id": 2}, 1)]
)
def test_rank_of(node_config: dict[str, Any], rank: int) -> None:
    assert rank_of(Context(1, 1, node_config, RecordDict(), {})) == rank


def test_a_node_without_a_rank() -> None:
    with pytest.raises(KeyError, match=r"node-config must give rank \(or partition-id\)"):
        rank_of(Context(1, 1, {}, RecordDict(), {}))


def test_a_node_without_the_number_of_workers() -> None:
    grid = InlineGrid(make_client_app(load_by_rank, tiny.linear, device="cpu"), 1)
    for context in grid._contexts.values():
        del context.node_config["num-partitions"]
    assert "node-config must give num-partitions" in str(ask(grid)[0].error.reason)


def test_mods_see_messages() -> None:
    seen: list[str] = []

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        seen.append(message.metadata.message_type)
        return call_next(message, context)

    app = make_client_app(lambda rank, n: (X, Y), tiny.linear, device="cpu", mods=[mod])
    ask(InlineGrid(app, 1), "train", arrays=True)
    assert seen == ["train"]


def test_an_exception_becomes_an_error_reply() -> None:
    def load(rank: int, num_workers: int) -> tuple[Tensor, Tensor]:
        raise OSError("the disk is gone")

    replies = ask(InlineGrid(make_client_app(load, tiny.linear), 1))
    assert replies[0].has_error()
    assert "the disk is gone" in str(replies[0].error.reason)


class TestFedAvgDrives:
    """Flower's own strategy over our ClientApp."""

    @pytest.fixture
    def grid(self) -> InlineGrid:
        return InlineGrid(make_client_app(load_by_rank, tiny.linear, device="cpu", fleet=tiny.fleet(1.0, 0.5)), 3)

    def start(self, grid: InlineGrid, rounds: int, model: tiny.Model = tiny.linear, **config: Any) -> Any:
        strategy = FedAvg(min_train_nodes=3, min_evaluate_nodes=3, min_available_nodes=3)
        said = ConfigRecord({"learning_rate": 0.2, "batch_size": 20, "minibatch_size": 5, **config})
        return strategy.start(grid, tiny.arrays(model), rounds, train_config=said)

    def test_one_round_is_one_of_ours(self, grid: InlineGrid) -> None:
        theirs = self.start(grid, 1, local_steps=2, momentum=0.5, weight_decay=0.01)
        ours = AllReduce(sgd=SGD(0.2, 0.5, 0.01), work=FullBatch(2, 20, 5)).start(grid, tiny.arrays(), 1)
        np.testing.assert_allclose(tiny.vector(ours.arrays), tiny.vector(theirs.arrays), atol=1e-6)

    def test_trains_and_evaluates(self, grid: InlineGrid) -> None:
        result = self.start(grid, 4)
        losses = [metrics["train_loss"] for metrics in result.train_metrics_clientapp.values()]
        accuracy = [metrics["accuracy"] for metrics in result.evaluate_metrics_clientapp.values()]
        assert losses[-1] < 0.8 * losses[0]
        assert accuracy[-1] > 0.7

    def test_with_buffers(self) -> None:
        grid = InlineGrid(make_client_app(load_by_rank, tiny.batch_norm, device="cpu", fleet=tiny.fleet(1.0)), 3)
        result = self.start(grid, 2, tiny.batch_norm)
        assert np.isfinite(tiny.vector(result.arrays)).all()


def test_reply_to_fedavg_is_plain() -> None:
    """One ArrayRecord and one MetricRecord of numbers, as Flower's aggregation requires."""
    grid = InlineGrid(make_client_app(load_by_rank, tiny.linear, device="cpu", fleet=tiny.fleet(1.0)), 1)
    content = RecordDict({ARRAYS: ArrayRecord(tiny.linear().state_dict()), CONFIG: ConfigRecord({"momentum": 0.9})})
    (reply,) = grid.send_and_receive(
        [Message(content, dst_node_id=next(iter(grid.get_node_ids())), message_type="train")]
    )
    assert list(reply.content.array_records) == [ARRAYS]
    assert list(reply.content.metric_records) == [METRICS]
    assert isinstance(reply.content[METRICS], MetricRecord)
    assert all(np.isfinite(v) for v in reply.content.metric_records[METRICS].values())


def test_a_client_process_needs_no_torch() -> None:
    """A deployment starts a process per message, which must not import torch unless it holds the worker."""
    code = "import sys, clients.app, echelon.protocol.messages; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_torch_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    grid = InlineGrid(make_client_app(lambda rank, n: (X, Y), tiny.dropout, device="cpu"), 1)
    messages = [
        Message(
            RecordDict({ARRAYS: tiny.arrays(tiny.dropout), CONFIG: ConfigRecord()}),
            dst_node_id=node,
            message_type="train",
        )
        for node in grid.get_node_ids()
    ]
    assert not next(iter(grid.send_and_receive(messages))).has_error()
    assert torch.equal(torch.get_rng_state(), before)
