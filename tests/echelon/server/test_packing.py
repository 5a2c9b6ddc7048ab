"""However the arrays of a message travel, as one, as rows or by name, every strategy comes to the same."""

from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import ARRAYS, CONFIG, SHARD
from echelon.protocol.packing import PACKED
from echelon.server import exchange
from tests import tiny
from tests.strategies.table import STRATEGIES, Factory
from tests.strategies.test_contract import MOMENTUM, UNEQUAL, bits, each_strategy, simulated


class DeployedGrid(InlineGrid):
    """Stands for the grid of a deployment; notes what the messages to workers carry."""

    def __init__(self, client_app: ClientApp) -> None:
        super().__init__(client_app, 4)
        self.carried: set[str] = set()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = list(messages)
        for message in pushed:
            if not message.metadata.message_type.startswith("query"):
                self.carried.update(message.content.keys() - {CONFIG})
        return super().push_messages(pushed)


@each_strategy
@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_a_deployment_packs_its_arrays_and_comes_to_the_same(
    wire: str, make: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"sgd": MOMENTUM, "model": tiny.batch_norm, "wire": wire}
    simulated_run = tiny.run(make, 4, on=InlineGrid(tiny.app(tiny.batch_norm, devices=UNEQUAL), 4), **options)
    monkeypatch.setattr(exchange, "is_deployed", lambda grid: isinstance(grid, DeployedGrid))
    grid = DeployedGrid(tiny.app(tiny.batch_norm, devices=UNEQUAL))
    run = tiny.run(make, 4, on=grid, **options)
    assert grid.carried == {PACKED}
    assert simulated(run.records) == simulated(simulated_run.records)
    assert bits(run.strategy.state) == bits(simulated_run.strategy.state)


@each_strategy
def test_rows_come_to_the_same_as_named_arrays(make: Factory) -> None:
    options: dict[str, Any] = {"sgd": MOMENTUM, "model": tiny.batch_norm}
    rows, named = (
        tiny.run(make, 4, on=InlineGrid(tiny.app(tiny.batch_norm, devices=UNEQUAL, mods=mods), 4), **options)
        for mods in (None, [tiny.as_it_is])
    )
    assert bits(rows.strategy.state) == bits(named.strategy.state)
    assert all(a["uplink_bytes"] < b["uplink_bytes"] for a, b in zip(rows.records, named.records, strict=True))


def test_a_deployment_does_not_pack_where_mods_look_at_the_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "is_deployed", lambda grid: isinstance(grid, DeployedGrid))
    grid = DeployedGrid(tiny.app(mods=[tiny.as_it_is]))
    tiny.run(STRATEGIES["d_psgd"], 2, on=grid)
    assert grid.carried == {ARRAYS, SHARD}
