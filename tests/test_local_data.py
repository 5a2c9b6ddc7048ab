"""``partitioner=local``: every worker trains on its own file, and only model rows and numbers leave it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

import client_app
import server_app
from conf import compose
from echelon.engines.inline import InlineGrid
from echelon.protocol.rows import row_name
from echelon.reports import progress

WORKERS = 3
SAMPLES = (20, 30, 40)
# What the worker says of its model: names, and a digest of what does not travel.
PARTS = {"trainable", "buffers", "tied", "frozen", "momentum", "vectors", "numbers", "optimizer"}
MARK = 123  # a pixel value that only the workers' own data has


class ListeningGrid(InlineGrid):
    """Records every reply."""

    def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().replies_to(message_ids)
        self.heard.extend(replies)
        return replies

    heard: list[Message]


def write(path: Path, samples: int, pixel: int) -> None:
    rng = np.random.default_rng(samples)
    x = rng.integers(0, 255, size=(samples, 8, 8, 1), dtype=np.uint8)
    x[:, 0, 0] = pixel
    y = np.arange(samples) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x[:10], y_test=y[:10], classes=["even", "odd"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_only_rows_and_numbers_leave_a_worker(momentum: float, tmp_path: Path) -> None:
    for rank, samples in enumerate(SAMPLES):
        write(tmp_path / f"{rank}.npz", samples, MARK)
    write(tmp_path / "server.npz", 50, 0)
    config = compose(
        [
            *("task=npz", f"task.root={tmp_path / 'server.npz'}", "partitioner=local", f"workers={WORKERS}"),
            *("strategy=d_psgd", "topology=ring", "engine=inline", "rounds=2", "eval_every=1", "fleet=uniform"),
            *("model=mlp", f"momentum={momentum}", "batch_size=8", "minibatch_size=4"),
        ]
    )
    grid = ListeningGrid(client_app.make_app(config), WORKERS)
    grid.heard = []
    for context in grid._contexts.values():
        context.node_config["data"] = str(tmp_path / "{rank}.npz")
    folder = server_app.open_folder(config, tmp_path / "run")
    server_app.run(config, grid, folder, progress.make("none"))

    queries = [reply for reply in grid.heard if reply.metadata.message_type.startswith("query")]
    trained = [reply for reply in grid.heard if reply.metadata.message_type == "train"]
    assert (len(queries), len(trained)) == (WORKERS, 2 * WORKERS)
    assert len(grid.heard) == len(queries) + len(trained)
    for reply in queries:
        assert set(reply.content) == {"metrics", "config"}
        config_record = reply.content.config_records["config"]
        assert set(config_record) == {"device", "packs", "bf16", *PARTS}
        assert not any(isinstance(value, bytes) for value in config_record.values())
    names = {"arrays", "metrics"} | ({"momentum"} if momentum else set())
    model = client_app.build_model(config).state_dict()
    num_parameters = sum(tensor.numel() for tensor in model.values())
    for reply in trained:
        assert set(reply.content) == names
        for record in reply.content.array_records.values():
            assert {name: array.shape for name, array in record.items()} == {row_name(model): (num_parameters,)}
        numbers = reply.content.metric_records["metrics"].values()
        assert all(isinstance(value, int | float) for value in numbers)
    examples = {int(reply.content.metric_records["metrics"]["num-examples"]) for reply in trained}  # type: ignore[arg-type]
    assert examples == set(SAMPLES)
    assert not (folder.path / "partition.npz").exists()
