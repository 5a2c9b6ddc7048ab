"""The worker of a process: requests and replies."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict

from clients.data import Batch, TensorData
from clients.fleet import Device, Fleet
from clients.worker import Worker
from echelon.algorithms.partial import sample_order
from echelon.core.layout import ModelParts
from echelon.protocol.messages import (
    ARRAYS,
    CONFIG,
    METRICS,
    MOMENTUM,
    SHARD,
    RosterEntry,
    TrainInstructions,
    TrainReport,
    as_ndarray,
    shard_record,
)
from tests import tiny

X, Y = tiny.data()
BASE = TrainInstructions(rank=2, batch_size=16, minibatch_size=4)


class Spy(TensorData):
    """Records which samples are used."""

    def __init__(self) -> None:
        super().__init__(X, Y)
        self.used: list[int] = []

    def batch(self, indices: torch.Tensor, generator: np.random.Generator) -> Batch:
        self.used.extend(indices.tolist())
        return super().batch(indices, generator)


def worker(data: Any = None, build: tiny.Model = tiny.linear, fleet: Fleet | None = None) -> Worker:
    made = Worker(build, device="cpu", fleet=fleet)
    made.hold(2, lambda: (X, Y) if data is None else data)
    return made


def content(
    instructions: TrainInstructions = BASE, records: dict[str, Any] | None = None, build: tiny.Model = tiny.linear
) -> RecordDict:
    return RecordDict({ARRAYS: tiny.arrays(build), CONFIG: instructions.to_config(), **(records or {})})


def report(reply: RecordDict) -> TrainReport:
    return TrainReport.from_metrics(reply.metric_records[METRICS])


class TestSamples:
    def test_takes_its_shard_in_its_own_order_from_the_cursor_on(self) -> None:
        shard = np.array([40, 3, 77, 12, 5, 60, 8, 91, 33, 20])
        spy = Spy()
        instructions = replace(BASE, seed=9, epoch=4, position=7)
        reply = worker(spy).train(2, content(instructions, {SHARD: shard_record(shard)}))
        orders = [sample_order(9, 2, epoch, 10) for epoch in (4, 5, 6)]
        assert spy.used == shard[np.concatenate([orders[0][7:], orders[1], orders[2][:3]])].tolist()
        assert report(reply).num_examples == 10

    def test_without_a_plan_all_of_its_data_is_the_shard(self) -> None:
        spy = Spy()
        reply = worker(spy).train(2, content(replace(BASE, local_steps=6)))
        assert sorted(spy.used) == list(range(96))
        assert report(reply).num_examples == 96

    @pytest.mark.parametrize(
        ("indices", "message"),
        [
            ([0, 96], "shard indices must lie in 0..95, the range of this worker's data; got 96"),
            ([-1, 0], "shard indices must lie in 0..95, the range of this worker's data; got -1"),
            ([], "the shard must be a non-empty list"),
        ],
    )
    def test_shards_that_it_does_not_have(self, indices: list[int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            worker().train(2, content(BASE, {SHARD: shard_record(np.array(indices, dtype=np.int64))}))

    def test_data_is_loaded_once(self) -> None:
        made = worker()
        loads = iter([(X[:10], Y[:10])])
        for rank in (2, 5, 5, 2):
            made.hold(rank, lambda: next(loads))
        assert next(loads, None) is None
        assert report(made.train(5, content())).num_examples == 10
        assert report(made.train(2, content())).num_examples == 96


class TestRequestsLeaveNoTrace:
    def test_same_request_same_bits_whatever_came_between(self) -> None:
        made = worker(build=tiny.batch_norm)
        request = content(replace(BASE, momentum=0.9), build=tiny.batch_norm)
        first = made.train(2, request).array_records[ARRAYS]
        made.roster(2, TrainInstructions().to_config())
        made.evaluate(2, request)
        made.train(2, content(replace(BASE, server_round=2, learning_rate=3.0), build=tiny.batch_norm))
        again = made.train(2, request).array_records[ARRAYS]
        for name in first:
            assert first[name].data == again[name].data, name

    def test_momentum_travels(self) -> None:
        buffer = {name: torch.full(array.shape, 0.5) for name, array in tiny.arrays().items()}
        made = worker()
        sent = content(replace(BASE, momentum=0.9), {MOMENTUM: ArrayRecord(buffer)})
        reply = made.train(2, sent)
        without = made.train(2, content(replace(BASE, momentum=0.9)))
        for name in buffer:
            moved = reply.array_records[ARRAYS][name].numpy() - without.array_records[ARRAYS][name].numpy()
            np.testing.assert_allclose(moved, -0.1 * 0.9 * 0.5, rtol=1e-4)
            gradient = reply.array_records[MOMENTUM][name].numpy() - 0.45
            start = tiny.arrays()[name].numpy()
            step = start - without.array_records[ARRAYS][name].numpy()
            np.testing.assert_allclose(gradient, step / 0.1, atol=1e-5)
        assert MOMENTUM not in without


class TestRoster:
    def test_of_a_simulated_device(self) -> None:
        fleet = Fleet((Device(40.0, 0.01, 1e6), Device(20.0)))
        entry = RosterEntry.from_content(worker(fleet=fleet).roster(2, TrainInstructions(minibatch_size=8).to_config()))
        parts = ModelParts(("weight", "bias"))
        assert entry == RosterEntry(2, 96, 40.0, 0.2, 0.01, 1e6, "cpu", parts=parts)

    @pytest.mark.parametrize("fleet", [None, Fleet((Device(1e-3),))])
    def test_a_real_device_measures_itself(self, fleet: Fleet | None) -> None:
        instructions = TrainInstructions(minibatch_size=8, wall_clock=True)
        entry = RosterEntry.from_content(worker(fleet=fleet).roster(2, instructions.to_config()))
        assert 1e-6 < entry.seconds_per_minibatch < 1
        assert entry.samples_per_second == pytest.approx(8 / entry.seconds_per_minibatch)
        assert (entry.num_examples, entry.latency_seconds) == (96, 0)

    def test_it_measures_with_fewer_samples_than_a_minibatch(self) -> None:
        made = worker((X[:3], Y[:3]))
        entry = RosterEntry.from_content(made.roster(2, TrainInstructions(minibatch_size=8).to_config()))
        assert entry.seconds_per_minibatch > 0


class TestClocks:
    def test_simulated_seconds(self) -> None:
        made = worker(fleet=Fleet((Device(40.0),)))
        got = report(made.train(2, content(replace(BASE, budget_seconds=0.25))))
        assert (got.minibatches, got.samples) == (2, 8)
        assert got.seconds == pytest.approx(0.2)
        assert got.dropped_seconds == pytest.approx(0.05)

    def test_wall_clock_turns_the_fleet_off(self) -> None:
        made = worker(fleet=Fleet((Device(1e-6, on_intervals=()),)))
        got = report(made.train(2, content(replace(BASE, wall_clock=True))))
        assert got.minibatches == 4
        assert 0 < got.seconds < 5

    def test_a_device_that_is_off_does_nothing(self) -> None:
        fleet = Fleet((Device(1.0, on_intervals=((30.0, 40.0),)),))
        reply = worker(fleet=fleet).train(2, content(replace(BASE, run_seconds=12.0)))
        assert report(reply) == replace(report(reply), samples=0, away_seconds=18.0)
        assert ARRAYS not in reply


def test_evaluate_on_its_own_shard() -> None:
    shard = np.arange(10, 40)
    made = worker(build=tiny.batch_norm)
    reply = made.evaluate(2, content(BASE, {SHARD: shard_record(shard)}, tiny.batch_norm))
    module = tiny.batch_norm().eval()
    with torch.no_grad():
        outputs = module(X[10:40])
    metrics = reply.metric_records[METRICS]
    assert metrics["num-examples"] == 30
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, Y[10:40]).item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((outputs.argmax(1) == Y[10:40]).float().mean().item())


def test_arrays_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="received arrays must match the model"):
        worker().train(2, content(build=tiny.batch_norm))


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Worker(tiny.linear, device="auto").device == "cpu"
    with pytest.raises(ValueError, match="device=cuda needs a CUDA device; none is visible here"):
        Worker(tiny.linear, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_computes_what_the_cpu_does() -> None:
    request = content(replace(BASE, local_steps=5, momentum=0.9, weight_decay=0.01), build=tiny.batch_norm)
    replies = []
    for device in ("cpu", "cuda", "cuda"):
        made = Worker(tiny.batch_norm, device=device)
        made.hold(2, lambda: (X, Y))
        replies.append(made.train(2, request))
    cpu, cuda, again = (reply.array_records[ARRAYS] for reply in replies)
    for name in cpu:
        np.testing.assert_allclose(as_ndarray(cpu[name]), as_ndarray(cuda[name]), atol=1e-4)
        assert cuda[name].data == again[name].data, "the same bits twice on CUDA"
    assert report(replies[0]).train_loss == pytest.approx(report(replies[1]).train_loss, abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_computing_on_the_cpu_does_not_start_cuda() -> None:
    """A CUDA context takes half a gigabyte of the device's memory in every process."""
    code = "import torch; from tests.clients.test_worker import *; worker().train(2, content()); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(torch.cuda.is_initialized())"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
