"""Processes of a run without a server: the same models and records as in one process, and an end in order."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord
from numpy.typing import NDArray
from torch import Tensor

from clients import make_client_app
from clients.fleet import Fleet, Jitter
from echelon.core.work import FullBatch, WorkPolicy
from echelon.engines import torch as engine
from echelon.engines.peers import Parts, PeerRun
from echelon.engines.site import Answer
from echelon.peer.group import Group
from echelon.server.evaluated import EvaluatedWorkers
from strategies import DPSGD, SGD, NonBlocking, RunStoppedError
from tests import tiny
from tests.pool import Pool
from tests.strategies.table import STRATEGIES, WORK

WORKERS, ROUNDS, EVERY = 4, 20, 7
OWNERS = engine.owners(WORKERS, 3)
WITHOUT_SERVER = [name for name, make in STRATEGIES.items() if not make().needs_server]
ROWS = [(name, "non_blocking") for name in WITHOUT_SERVER] + [(name, "full_batch") for name in WITHOUT_SERVER]
ROWS += [("d_psgd", "rest"), ("al_dsgd", "expected"), ("all_reduce", "two steps")]
# What a server alone has, or real time.
OTHERWISE = {"uplink_bytes", "downlink_bytes", "wall_seconds"}


def devices(work: str) -> Fleet:
    """Unequal devices; of those under a budget, some leave and come back."""
    churn = {} if work == "full_batch" else {"leave_probability": 0.1, "return_probability": 0.6}
    return tiny.fleet(1, 1, 0.5, 0.25, jitter=Jitter("shifted_exponential", 0.3), **churn)


def model(name: str, work: str) -> tiny.Model:
    """Buffers of floats and of integers in some rows; not where a batch may be one sample, which has no variance."""
    return tiny.batch_norm if name in ("d_psgd", "all_reduce", "matcha") and work != "rest" else tiny.linear


def options(work: str) -> dict[str, Any]:
    return {"work": WORK[work], "sgd": SGD(0.1, momentum=0.5, weight_decay=0.01), "seed": 3}


def measure(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    values = tiny.vector(arrays)
    return MetricRecord({"accuracy": float(np.tanh(values.std())), "loss": float(np.abs(values).mean())})


def evaluated() -> EvaluatedWorkers:
    return EvaluatedWorkers("sample", samples=30, eval_every=EVERY, num_rounds=ROUNDS)


def parts(name: str, work: str) -> Parts:
    app = tiny.app(model(name, work), devices=devices(work))
    assert hasattr(app, "answer")
    return Parts(
        STRATEGIES[name](**options(work)),
        lambda is_over: app.answer,
        tiny.arrays(model(name, work)),
        tiny.partition(WORKERS),
        measure,
        evaluated(),
    )


Outcome = tuple[dict[int, NDArray[np.float32]], list[dict[str, Any]]]


def of_processes(rows: list[tuple[str, str]], owners: list[int]) -> dict[tuple[str, str], Outcome]:
    """Return the models of this process's workers, and the records, which the first process says."""
    found = {}
    for row in rows:
        records: list[dict[str, Any]] = []
        made = PeerRun(parts(*row), Group(owners))
        made.run(records.append)
        found[row] = {rank: site.row for rank, site in made.sites.items()}, records
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


# --- the processes


def counts(group: Group, say: engine.Say) -> None:
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    say((group.process, group.local, total.item()))


def fails(group: Group, say: engine.Say) -> None:
    if group.process == 1:
        raise ValueError("learning_rate must be above 0; got -1\nand more")
    group.gather(np.zeros((group.num_workers, 1)))


def is_killed(group: Group, say: engine.Say) -> None:
    if group.process == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


def hangs(group: Group, say: engine.Say) -> None:
    say(os.getpid())
    group.gather(np.zeros((group.num_workers, 1)))
    time.sleep(600)


def start(work: engine.Work, hear: engine.Say = print, stop: Event | None = None) -> None:
    engine.run(work, [0, 0, 1], hear, stop=stop or Event(), timeout=60)


def test_as_many_workers_as_possible_in_each_process() -> None:
    assert engine.owners(8, 3) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert engine.owners(3, 3) == [0, 1, 2]


@pytest.mark.deployment
def test_every_process_is_heard() -> None:
    heard: list[Any] = []
    start(counts, heard.append)
    assert sorted(heard) == [(0, [0, 1], 2.0), (1, [2], 2.0)]


@pytest.mark.deployment
@pytest.mark.parametrize(
    ("work", "line"),
    [
        (fails, "^worker 2: learning_rate must be above 0; got -1$"),
        (is_killed, "^the process of worker 2 was killed by SIGKILL$"),
        (partial(print, sep=0), "^workers? .*: TypeError: sep must be None or a string, not int$"),
    ],
    ids=["fails", "is killed", "cannot be called"],
)
def test_a_failure_ends_all(work: engine.Work, line: str) -> None:
    with pytest.raises(engine.ProcessFailedError, match=line):
        start(work)


@pytest.mark.deployment
def test_told_to_stop() -> None:
    stop, heard = Event(), []

    def hear(pid: int) -> None:
        heard.append(pid)
        if len(heard) == 2:
            stop.set()

    with pytest.raises(RunStoppedError):
        start(hangs, hear, stop)
    for pid in heard:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
