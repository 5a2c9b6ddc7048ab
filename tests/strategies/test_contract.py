"""What every strategy of the table promises, whatever it averages."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result

import clients.app
from clients.fleet import Device, Fleet, Jitter
from echelon.core.work import WorkPolicy
from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import ARRAYS
from echelon.server import checkpoint
from strategies import REGISTRY, SGD, NonBlocking, Partition, ServerState
from tests import tiny
from tests.grids import ShufflingGrid
from tests.strategies.table import STRATEGIES, WORK, Factory

MOMENTUM = SGD(0.1, momentum=0.9, weight_decay=0.01, lr_milestones=(3,))
UNEQUAL = tiny.fleet(1, 1, 0.5, 0.25, jitter=Jitter("log_normal", scale=0.3))

each_strategy = pytest.mark.parametrize("make", STRATEGIES.values(), ids=list(STRATEGIES))


def test_every_registered_strategy_is_under_contract() -> None:
    assert {type(make()) for make in STRATEGIES.values()} == set(REGISTRY.values())


def bits(state: ServerState) -> dict[str, bytes]:
    """All of the server's state but the real time."""
    values = {name: value for name, value in vars(state).items() if name not in ("extras", "wall_seconds")}
    return {name: np.asarray(value).tobytes() for name, value in (values | state.extras).items()}


def simulated(records: list[tiny.Record]) -> str:
    """All that records say, but the real time and evaluations."""
    left_out = ("wall_seconds", "worker_accuracy", "worker_loss")
    return json.dumps([{k: v for k, v in record.items() if k not in left_out} for record in records])


@each_strategy
class TestResult:
    def test_is_flowers(self, make: Factory) -> None:
        run = tiny.run(make, rounds=3, model=tiny.batch_norm)
        assert isinstance(run.result, Result)
        assert run.result.arrays is not None
        model = tiny.arrays(tiny.batch_norm)
        assert list(run.result.arrays) == list(model)
        for name, array in run.result.arrays.items():
            assert (array.shape, array.dtype) == (model[name].shape, model[name].dtype)
        assert np.isfinite(tiny.vector(run.result.arrays)).all()
        assert list(run.result.train_metrics_clientapp) == [1, 2, 3]
        assert list(run.result.evaluate_metrics_clientapp) == [3]
        assert list(run.result.evaluate_metrics_clientapp[3]) == ["accuracy", "loss"]

    def test_is_the_mean_of_the_rows(self, make: Factory) -> None:
        """With ``robust``, of four workers without the smallest and the largest value."""
        run = tiny.run(make, rounds=2)
        rows = np.sort(run.rows.astype(float), axis=0)[1:3] if run.strategy.robust else run.rows.astype(float)
        np.testing.assert_allclose(tiny.vector(run.result.arrays), rows.mean(axis=0), atol=1e-7)

    def test_training_helps(self, make: Factory) -> None:
        run = tiny.run(make, rounds=12, sgd=SGD(0.5), start={"evaluate_fn": evaluate})
        assert run.records[-1]["consensus_accuracy"] > 0.7
        assert run.records[-1]["consensus_loss"] < 0.75


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Accuracy and loss of a linear model on all samples."""
    x, y = (tensor.numpy() for tensor in tiny.data())
    logits = x @ arrays["weight"].numpy().T + arrays["bias"].numpy()
    logits -= logits.max(axis=1, keepdims=True)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = -np.log(chances[np.arange(len(y)), y]).mean()
    return MetricRecord({"accuracy": float((logits.argmax(1) == y).mean()), "loss": float(loss)})


NUMBERS = (
    "round",
    "virtual_seconds",
    "round_seconds",
    "wall_seconds",
    "train_loss",
    "consensus_distance",
    "mean_drift",
)
BY_RANK = ("train_loss_per_worker", "minibatches", "samples", "compute_seconds", "communication_seconds", "idle_share")
FOR_ALL = ("target_minibatches", "peer_bytes")
COUNTS = ("rejected", "uplink_bytes", "downlink_bytes")


@each_strategy
@pytest.mark.parametrize("work", ["full_batch", "non_blocking"])
class TestRecord:
    def test_fields(self, make: Factory, work: str) -> None:
        """Every field of ``metrics.jsonl``, of the right type and length, ready for JSON."""
        network = Fleet((Device(10.0, 0.01, 1e5), Device(5.0, 0.02, 1e5)))
        run = tiny.run(make, rounds=2, work=WORK[work], devices=network, start={"evaluate_fn": evaluate})
        assert [record["round"] for record in run.records] == [1, 2]
        for record in run.records:
            json.dumps(record, allow_nan=False)
            assert all(isinstance(record[name], int | float) for name in NUMBERS)
            assert all(isinstance(record[name], int) and record[name] >= 0 for name in COUNTS)
            assert all(len(record[name]) == 4 for name in (*BY_RANK, *FOR_ALL))
            assert all(isinstance(value, int) for name in FOR_ALL for value in record[name])
            assert set(record["present"]) <= set(range(4))
            assert record["present"] == sorted(record["present"])
            assert record["rejections"] == {}
            assert record["budget_seconds"] is None or record["budget_seconds"] > 0
            assert record["edges"] == "complete" or all(0 <= i < j < 4 for i, j in record["edges"])
            assert record["downlink_bytes"] > 0
            assert record["uplink_bytes"] > 0
        last = run.records[-1]
        assert len(last["worker_accuracy"]) == len(last["worker_loss"]) == 4
        assert 0 <= last["consensus_accuracy"] <= 1

    def test_adds_up(self, make: Factory, work: str) -> None:
        run = tiny.run(make, rounds=4, work=WORK[work], devices=UNEQUAL)
        assert run.column("virtual_seconds") == pytest.approx(np.cumsum(run.column("round_seconds")))
        assert run.strategy.state.virtual_seconds == run.records[-1]["virtual_seconds"]
        assert run.strategy.state.samples == sum(n or 0 for record in run.records for n in record["samples"])
        assert run.strategy.state.round == 4
        for record in run.records:
            losses = [record["train_loss_per_worker"][rank] for rank in record["present"]]
            if len(losses) == sum(bool(n) for n in record["minibatches"]):
                assert record["train_loss"] == pytest.approx(np.mean(losses), rel=1e-6)
            for rank in range(4):
                share = record["idle_share"][rank]
                assert share is None or -1e-9 <= share <= 1
                assert (record["minibatches"][rank] is None) == (rank not in record["present"])


@each_strategy
class TestReproducible:
    def test_same_seed_same_bits(self, make: Factory) -> None:
        runs = [tiny.run(make, devices=UNEQUAL, sgd=MOMENTUM, model=tiny.dropout) for _ in range(2)]
        assert bits(runs[0].strategy.state) == bits(runs[1].strategy.state)
        assert simulated(runs[0].records) == simulated(runs[1].records)
        other = tiny.run(make, devices=UNEQUAL, sgd=MOMENTUM, model=tiny.dropout, seed=1)
        assert bits(other.strategy.state)["rows"] != bits(runs[0].strategy.state)["rows"]

    def test_order_of_replies_is_irrelevant(self, make: Factory) -> None:
        app = partial(tiny.app, devices=UNEQUAL)
        runs = [tiny.run(make, on=grid, sgd=MOMENTUM) for grid in (InlineGrid(app(), 4), ShufflingGrid(app(), 4, 1))]
        assert bits(runs[0].strategy.state) == bits(runs[1].strategy.state)
        assert simulated(runs[0].records) == simulated(runs[1].records)

    def test_order_of_node_ids_is_irrelevant(self, make: Factory) -> None:
        first = tiny.run(make, devices=UNEQUAL)
        grid = tiny.grid(4, devices=UNEQUAL)
        grid._contexts = {7 * id_ % 1013: grid._contexts[id_] for id_ in sorted(grid._contexts)}
        assert bits(tiny.run(make, on=grid).strategy.state) == bits(first.strategy.state)

    def test_workers_have_no_memory(self, make: Factory) -> None:
        """A worker process that restarts in every round changes nothing: all state is the server's."""
        runs = [
            tiny.run(make, 4, devices=UNEQUAL, sgd=MOMENTUM, model=tiny.batch_norm, on_round=on_round)
            for on_round in ([], [lambda record, state: clients.app._workers.clear()])
        ]
        assert bits(runs[0].strategy.state) == bits(runs[1].strategy.state)


class TestResume:
    @staticmethod
    def check(tmp_path: Path, make: Factory, **options: Any) -> None:
        """Run five rounds with a checkpoint after each; one round from each must end in the state of the next."""
        churn = Fleet(UNEQUAL.devices, UNEQUAL.jitter, leave_probability=0.2, return_probability=0.6)
        rest: dict[str, Any] = {"devices": churn, "sgd": MOMENTUM, "model": tiny.batch_norm, **options}
        states: list[dict[str, bytes]] = []

        def save(record: Any, state: ServerState) -> None:
            checkpoint.save(state, tmp_path / str(state.round))
            states.append(bits(state))

        whole = tiny.run(make, 5, on_round=[save], **rest)
        for number in range(1, 5):
            state = checkpoint.load(tmp_path / str(number))
            assert bits(state) == states[number - 1]
            resumed = tiny.run(make, number + 1, state=state, **rest)
            assert bits(resumed.strategy.state) == states[number], f"resumed from round {number}"
            assert simulated(resumed.records) == simulated(whole.records[number : number + 1])

    @each_strategy
    def test_at_any_round(self, make: Factory, tmp_path: Path) -> None:
        self.check(tmp_path, make)

    @pytest.mark.parametrize("work", sorted(WORK))
    @pytest.mark.parametrize("name", ["al_dsgd in step", "fedbuff"])
    def test_with_any_work(self, name: str, work: str, tmp_path: Path) -> None:
        if WORK[work].estimator == "memory":
            pytest.skip("refused: see test_memory.py")
        self.check(tmp_path, STRATEGIES[name], work=WORK[work], model=tiny.linear)

    @pytest.mark.parametrize("name", ["all_reduce", "all_reduce quasi-global", "matcha", "over_selection"])
    @pytest.mark.parametrize("steps", [1, 3])
    def test_with_remembered_gradients(self, name: str, steps: int, tmp_path: Path) -> None:
        work = WORK["memory"]
        assert isinstance(work, NonBlocking)
        self.check(tmp_path, STRATEGIES[name], work=replace(work, local_steps=steps))

    @each_strategy
    def test_when_there_is_nothing_left_to_do(self, make: Factory, tmp_path: Path) -> None:
        whole = tiny.run(make, 2)
        checkpoint.save(whole.strategy.state, tmp_path)
        resumed = tiny.run(make, 2, state=checkpoint.load(tmp_path))
        assert resumed.records == []
        assert resumed.result.arrays is not None
        np.testing.assert_array_equal(tiny.vector(resumed.result.arrays), tiny.vector(whole.result.arrays))


@each_strategy
class TestAbsentWorkers:
    def test_the_run_goes_on_and_the_worker_comes_back(self, make: Factory) -> None:
        """Worker 1 is off between 2 s and 12 s of the run."""
        devices = [Device(10.0)] * 4
        devices[1] = Device(10.0, on_intervals=((0.0, 2.0), (12.0, float("inf"))))
        run = tiny.run(make, 14, devices=Fleet(tuple(devices)))
        there = [1 in record["present"] for record in run.records]
        assert there[0]
        assert there[-1] or any(there[-4:])
        gone = [record for record in run.records if 1 in record["away"]]
        assert gone
        assert all(record["rejected"] == 0 for record in gone)
        for record in gone:
            if 1 not in record["present"]:
                assert record["minibatches"][1] is None
                assert record["edges"] == "complete" or all(1 not in edge for edge in record["edges"])

    def test_all_workers_is_away_for_a_while(self, make: Factory) -> None:
        """The run's time goes on to the moment at which the first one is back."""
        off = Device(10.0, on_intervals=((0.0, 1.0), (50.0, float("inf"))))
        run = tiny.run(make, 8, devices=Fleet((off,)))
        assert run.strategy.state.virtual_seconds > 50
        assert run.records[-1]["present"]


# --- clients that were not made here


@pytest.fixture
def foreign() -> ClientApp:
    """A plain Flower client: one step of its own, the usual two metrics, no handshake."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        rank = int(context.node_config["partition-id"])
        values = {
            name: Array((array.numpy() * 0.5 + rank).astype(np.float32))
            for name, array in message.content.array_records[ARRAYS].items()
        }
        metrics = MetricRecord({"num-examples": 10 * (rank + 1), "train_loss": 1.0 + rank})
        return Message(RecordDict({"arrays": ArrayRecord(values), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 10, "loss": 2.0, "accuracy": 0.5})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


@each_strategy
@pytest.mark.parametrize("work", ["full_batch", "non_blocking"])
def test_foreign_clients(make: Factory, work: str, foreign: ClientApp) -> None:
    if make is STRATEGIES["d_psgd target"]:
        with pytest.raises(ValueError, match="mixing=target needs the number of every worker's samples; worker 0"):
            tiny.run(make, 1, on=InlineGrid(foreign, 4), partition=Partition())
        return
    run = tiny.run(make, 3, on=InlineGrid(foreign, 4), partition=Partition(), work=WORK[work])
    assert all(record["rejected"] == 0 for record in run.records)
    for record in run.records:
        for rank in record["present"]:  # ranks in the order of node ids, which descend with the partition-id
            assert record["train_loss_per_worker"][rank] == 4.0 - rank
    assert run.result.evaluate_metrics_clientapp[3]["accuracy"] == 0.5
    assert run.rows.max() <= 6
    assert run.rows.max() > 1.5


@pytest.mark.parametrize("work", WORK.values(), ids=list(WORK))
@each_strategy
def test_any_work_with_any_strategy(make: Factory, work: WorkPolicy) -> None:
    if "combine_then_adapt" in str(make) and work.local_steps > 1:
        pytest.skip("one local step only")
    if work.estimator == "memory" and not _takes(make, work):
        return
    run = tiny.run(make, 2, work=work, sgd=MOMENTUM)
    assert run.strategy.state.round == 2
    assert np.isfinite(run.rows).all()
    for record in run.records:
        for rank in record["present"]:
            assert record["samples"][rank] > 0
            assert 0 < record["minibatches"][rank] <= record["target_minibatches"][rank]


def _takes(make: Factory, work: WorkPolicy) -> bool:
    """Return whether a strategy takes remembered gradients; one that does not says so."""
    try:
        make(work=work)
    except ValueError as error:
        return "memory" not in str(error)
    return True
