"""A run without a server in several processes: the same models and records as in one process."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from clients import make_client_app
from echelon.core.work import FullBatch, WorkPolicy
from echelon.engines.peers import Parts, PeerRun
from echelon.engines.site import Answer
from echelon.peer.group import Group
from echelon.server.evaluated import EvaluatedWorkers
from strategies import DPSGD, SGD, NonBlocking
from tests import tiny
from tests.echelon.engines.runs import (
    EVERY,
    OWNERS,
    ROUNDS,
    WITHOUT_SERVER,
    WORKERS,
    devices,
    evaluated,
    measure,
    model,
    options,
    parts,
)
from tests.pool import Pool
from tests.strategies.table import STRATEGIES

ROWS = [(name, "non_blocking") for name in WITHOUT_SERVER] + [(name, "full_batch") for name in WITHOUT_SERVER]
ROWS += [("d_psgd", "rest"), ("al_dsgd", "expected"), ("all_reduce", "two steps")]
ROWS += [(name, "memory") for name in ("d_psgd", "all_reduce", "all_reduce quasi-global", "matcha")]
ROWS += [("all_reduce", "memory, two steps")]
# What a server alone has, or real time.
OTHERWISE = {"uplink_bytes", "downlink_bytes", "wall_seconds"}


Outcome = tuple[dict[int, NDArray[np.float32]], list[dict[str, Any]]]


def of_processes(rows: list[tuple[str, str]], owners: list[int]) -> dict[tuple[str, str], Outcome]:
    """Return the models of this process's workers, and the records, which the first process says."""
    found = {}
    for row in rows:
        made = PeerRun(parts(*row), Group(owners))
        records = [made.round() for _ in range(ROUNDS)]
        found[row] = {rank: site.held.row for rank, site in made.sites.items()}, records
    return found


@pytest.fixture(scope="module")
def peers(three: Pool) -> dict[tuple[str, str], Outcome]:
    found = three.call(of_processes, ROWS, OWNERS)
    return {
        row: ({rank: model for of_process in found for rank, model in of_process[row][0].items()}, found[0][row][1])
        for row in ROWS
    }


@pytest.mark.parametrize("row", ROWS, ids=[" with ".join(row) for row in ROWS])
def test_models_and_records_are_those_of_one_process(
    row: tuple[str, str], peers: dict[tuple[str, str], Outcome]
) -> None:
    name, work = row
    inline = tiny.run(
        STRATEGIES[name],
        ROUNDS,
        WORKERS,
        model=model(name, work),
        devices=devices(work),
        start={"evaluate_fn": measure},
        evaluate_workers=evaluated(),
        **options(work) | {"eval_every": EVERY},
    )
    models, records = peers[row]
    np.testing.assert_allclose([models[rank] for rank in range(WORKERS)], inline.rows, rtol=1e-5, atol=1e-5)
    assert len(records) == ROUNDS
    for mine, theirs in zip(records, inline.records, strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() - OTHERWISE:
            close(mine[key], theirs[key], f"{key} in round {mine['round']}")


def close(mine: Any, theirs: Any, what: str) -> None:
    if isinstance(theirs, list) and isinstance(mine, list):
        assert len(mine) == len(theirs), what
        for one, other in zip(mine, theirs, strict=True):
            close(one, other, what)
    elif isinstance(theirs, float):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5, nan_ok=True), what
    else:
        assert mine == theirs, what


# --- the wall clock


class Slow:
    """Samples of which a mini-batch takes so long."""

    def __init__(self, seconds: float) -> None:
        self.inputs, self.labels = tiny.data()
        self._seconds = seconds

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        time.sleep(self._seconds)
        return self.inputs[indices], self.labels[indices]


def _slow(is_over: Callable[[], bool]) -> Answer:
    load = lambda rank, num_workers: Slow(0.4 if rank == 2 else 0.001)  # noqa: E731
    return make_client_app(load, tiny.linear, device="cpu", is_over=is_over).answer


def real_rounds(work: WorkPolicy) -> list[dict[str, Any]]:
    strategy, arrays = DPSGD("ring", work=work, sgd=SGD(0.1)), tiny.arrays()
    chosen = EvaluatedWorkers("none", samples=1, eval_every=99, num_rounds=3)
    made = PeerRun(Parts(strategy, _slow, arrays, tiny.partition(3), measure, chosen, wall_clock=True), Group())
    return [made.round() for _ in range(3)]


def test_an_event_ends_a_round_in_real_time(three: Pool) -> None:
    for records in three.call(real_rounds, NonBlocking(batch_size=16, minibatch_size=4)):
        for record in records:
            assert max(record["samples"][:2]) == 16
            assert record["samples"][2] < 16
            assert record["budget_seconds"] is None
            assert set(record["dropped_seconds"]) == {0.0}


def test_a_blocking_round_in_real_time(three: Pool) -> None:
    for records in three.call(real_rounds, FullBatch(batch_size=8, minibatch_size=4)):
        assert all(record["samples"] == [8, 8, 8] for record in records)
        assert all(record["round_seconds"] >= 0.8 for record in records)
