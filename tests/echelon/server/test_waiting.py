"""What the log says while a run waits for its workers."""

import logging
from functools import partial
from typing import Any

import pytest

from echelon.server import handshake
from echelon.server.waiting import describe
from strategies import DPSGD, Nodes
from tests import tiny
from tests.grids import LateGrid

# LateGrid's nodes of the ranks 0, 1 and 2.
NODES = (1003, 1002, 1001)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(handshake, "_REPORT_SECONDS", 0.03)
    caplog.set_level(logging.INFO, logger="flwr")
    return caplog


def _run(held: int | None, gone: int | None, **options: Any) -> None:
    grid = LateGrid(
        tiny.app(devices=tiny.fleet(1, 1, 1)), 3, lambda rank, number, kind: rank == held and kind.startswith("query")
    )
    if gone is not None:
        grid.take_away(gone)
    start = {"timeout": 0.05, "evaluate_fn": lambda server_round, arrays: None}
    tiny.run(partial(DPSGD, "ring"), 1, 3, on=grid, num_workers=3, start=start, roster_timeout=0.2, **options)


@pytest.mark.parametrize(("listed", "name"), [(Nodes(NODES, 3), "worker 2"), (None, "node 1001")])
def test_a_worker_that_starts_slowly_is_named(said: pytest.LogCaptureFixture, listed: Nodes | None, name: str) -> None:
    _run(held=2, gone=None, nodes=listed)
    lines = [record.getMessage() for record in said.records if " of 3 workers" in record.getMessage()]
    assert lines[-1] == f"2 of 3 workers; {name} starting for 0 s"
    assert 2 <= len(lines) <= 7, "again and again, but not at every poll"


def test_a_rank_without_a_node_is_named(said: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="rank 1 has no node"):
        _run(held=None, gone=1)
    assert "2 of 3 workers; no SuperNode yet for rank 1" in [record.getMessage() for record in said.records]


def test_a_quick_start_says_nothing(said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_REPORT_SECONDS", 10.0)
    _run(held=None, gone=None)
    assert not [record for record in said.records if " of 3 workers" in record.getMessage()]


def test_those_that_take_longest_come_first_and_the_rest_is_counted() -> None:
    starting: dict[int, tuple[int | None, float]] = {70 + rank: (rank, float(rank)) for rank in range(6)}
    expected = "1 of 9 workers; " + "; ".join(f"worker {rank} starting for {rank} s" for rank in (5, 4, 3, 2))
    assert describe(9, range(8), starting) == f"{expected}; 2 others starting; no SuperNode yet for ranks 6, 7"


def test_the_rank_of_an_unknown_node_may_be_any() -> None:
    assert describe(3, [1, 2], {7: (None, 12.6)}) == "1 of 3 workers; node 7 starting for 13 s"
    assert describe(40, range(20), {}).endswith("for ranks 0, 1, 2, 3, 4, 5, 6, 7, ...")
