import heapq
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.fleet import Jitter
from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import TrainInstructions
from echelon.server import checkpoint
from strategies import SGD, AllReduce, AllWorkersFailedError, FedBuff, FullBatch, NonBlocking, NormLimit, ServerState
from tests import tiny
from tests.strategies import scripted
from tests.strategies.scripted import Script

WORK = FullBatch(batch_size=8, minibatch_size=4)


def run(
    script: Script, steps: int, buffer_size: int, grid: Any = None, exponent: float = 1.0, **options: Any
) -> tuple[FedBuff, list[Any], list[float]]:
    """Run and return the strategy, the records and the model after every step."""
    records: list[Any] = []
    models: list[float] = []

    def note(record: Any, state: ServerState) -> None:
        records.append(record)
        models.append(float(state.rows[0, 0]))
        assert (state.rows == state.rows[0]).all()

    chosen: dict[str, Any] = {"work": WORK, "on_round": [note]} | options
    strategy = FedBuff(buffer_size, staleness_exponent=exponent, **chosen)
    strategy.start(grid or scripted.grid(script), scripted.model(), steps, evaluate_fn=lambda r, arrays: None)
    return strategy, records, models


def speeds(*seconds: float) -> Any:
    return lambda rank, _: seconds[rank]


class TestByHand:
    def test_speeds_1_1_and_a_quarter(self) -> None:
        # y - x = (c - x) / 2 with c = 2, 4, 8; buffer of 2; s = 1 / (1 + tau). In time, (rank: delta, tau):
        # 1: (0: 1, 0) (1: 2, 0)                                x = 0 + 3/2 = 1.5
        # 2: (0: 1, 1) (1: 1.25, 0)                             x = 1.5 + (.5 + 1.25)/2 = 2.375
        # 3: (0: .25, 1) (1: .8125, 0)                          x = 2.375 + (.125 + .8125)/2 = 2.84375
        # 4: (0: -.1875, 1) (1: .578125, 0)                     x = 2.84375 + (-.09375 + .578125)/2 = 3.0859375
        # 4: (2: 4, 4)  5: (0: -.421875, 1)                     x = 3.0859375 + (.8 - .2109375)/2 = 3.38046875
        # 5: (1: .45703125, 1)  6: (0: -.690234375, 0)          x = 3.38046875 + (.228515625 - .690234375)/2
        script = Script((2.0, 4.0, 8.0), seconds=speeds(1.0, 1.0, 4.0))
        strategy, records, models = run(script, 6, 2)
        assert models == pytest.approx([1.5, 2.375, 2.84375, 3.0859375, 3.38046875, 3.149609375], abs=1e-6)
        assert [record["virtual_seconds"] for record in records] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        assert [record["present"] for record in records] == [[0, 1], [0, 1], [0, 1], [0, 1], [0, 2], [0, 1]]
        assert [record["staleness"] for record in records] == [
            *[[0, 0, None], [1, 0, None], [1, 0, None], [1, 0, None]],
            *[[1, None, 4], [0, 1, None]],
        ]
        assert strategy.state.cursors.tolist() == [[0, 48], [0, 40], [0, 8]]
        assert strategy.state.samples == 12 * 8

    def test_communication_decides_who_is_first(self) -> None:
        # Arrivals: rank 0 at 1.5, 3, 4.5; rank 1 at 1.25, 2.5, 3.75.
        script = Script((2.0, 4.0), seconds=speeds(1.0, 1.25), latency=(0.5, 0.0))
        _, records, models = run(script, 5, 1, exponent=0.0)
        assert [record["present"] for record in records] == [[1], [0], [1], [0], [1]]
        assert [record["virtual_seconds"] for record in records] == [1.25, 1.5, 2.5, 3.0, 3.75]
        # 0 -> 2 -> + 1 = 3 -> + (4 - 2)/2 = 4 -> + (2 - 3)/2 = 3.5 -> + (4 - 4)/2
        assert models == [2.0, 3.0, 4.0, 3.5, 3.5]

    def test_where_the_time_went(self) -> None:
        # Rank 0: communicates to .5, computes to 1.5, communicates to 2, ...; rank 1 computes all the time.
        script = Script((2.0, 4.0), seconds=speeds(1.0, 1.25), latency=(0.5, 0.0))
        _, records, _ = run(script, 3, 1)
        assert [record["communication_seconds"] for record in records] == [[0.5, 0.0], [0.0, 0.0], [0.5, 0.0]]
        assert [record["compute_seconds"] for record in records] == [[0.75, 1.25], [0.25, 0.25], [0.5, 1.0]]
        assert [record["idle_share"] for record in records] == [[0.0, 0.0]] * 3

    def test_one_worker_several_times_in_a_buffer(self) -> None:
        # Rank 0 sends 1 at t = 1, 2 and 3 from x = 0, rank 1 sends 2 at t = 3: x = 5/4.
        script = Script((2.0, 4.0), seconds=speeds(1.0, 3.0))
        _, records, models = run(script, 1, 4)
        assert models == [1.25]
        record = records[0]
        assert (record["minibatches"], record["target_minibatches"], record["samples"]) == ([6, 2], [6, 2], [24, 8])
        assert record["peer_bytes"] == [12, 4]
        assert record["train_loss"] == 0.5
        assert [asked.position for rank, asked, _ in script.asked if rank == 0][:4] == [0, 8, 16, 24]

    def test_server_learning_rate(self) -> None:
        _, _, models = run(Script((2.0, 4.0)), 1, 2, server_learning_rate=0.5)
        assert models == [0.75]

    def test_partial_work_by_the_estimator(self) -> None:
        # ``finished`` weighs by the work done: 8 and 4 of 8 samples are 8/6 and 8/6 times the nominal weight.
        work = NonBlocking(batch_size=8, minibatch_size=4, estimator="finished", trigger="deadline", deadline=1.0)
        _, _, models = run(Script((2.0, 4.0), share=lambda rank, _: (1.0, 0.5)[rank]), 1, 2, work=work)
        assert models == pytest.approx([(1 + 2) / 2 * 8 / 6])

    def test_learning_rate_follows_the_steps_and_draws_the_tasks(self) -> None:
        script = Script((0.0, 0.0), seconds=speeds(1.0, 1.0))
        run(script, 4, 1, sgd=SGD(1.0, lr_milestones=(2,), lr_gamma=0.1))
        asked = [(asked.server_round, asked.learning_rate) for rank, asked, _ in script.asked if rank == 1]
        assert asked[:2] == [(1, 1.0), (2, pytest.approx(0.1))]


def reference(script: Script, steps: int, buffer_size: int, exponent: float) -> list[tuple[float, float]]:
    """FedBuff in a few lines, one event at a time: (time, model) after every step."""
    workers = range(len(script.centres))
    x, version = 0.0, 0
    buffer: list[float] = []
    found: list[tuple[float, float]] = []
    latency = script.latency or [0.0] * len(script.centres)

    def begin(rank: int, number: int, now: float) -> tuple[float, int, int, int, float]:
        seconds = script.seconds(rank, TrainInstructions(server_round=number))
        return now + latency[rank] + seconds, rank, number, version, x

    queue = [begin(rank, 1, 0.0) for rank in workers]
    heapq.heapify(queue)
    while len(found) < steps:
        now, rank, number, base_version, base = heapq.heappop(queue)
        buffer.append((1 + version - base_version) ** -exponent * (script.centres[rank] - base) / 2)
        if len(buffer) == buffer_size:
            x, version, buffer = x + sum(buffer) / buffer_size, version + 1, []
            found.append((now, x))
        heapq.heappush(queue, begin(rank, number + 1, now))
    return found


class ShuffledGrid(InlineGrid):
    """Hands replies over in random order, some of them only when asked again."""

    def __init__(self, script: Script, seed: int) -> None:
        super().__init__(scripted.app(script), len(script.centres))
        self.random = random.Random(seed)

    def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
        chosen = [message_id for message_id in message_ids if self.random.random() < 0.6]
        self.random.shuffle(chosen)
        return super().replies_to(chosen)


class TestOrder:
    @settings(max_examples=25, deadline=None)
    @given(
        durations=st.lists(
            st.lists(st.sampled_from([0.25, 0.5, 1.0, 3.0]), min_size=1, max_size=4), min_size=1, max_size=5
        ),
        latencies=st.lists(st.sampled_from([0.0, 0.125, 0.5]), min_size=5, max_size=5),
        buffer_size=st.integers(1, 7),
        exponent=st.sampled_from([0.0, 0.5, 2.0]),
    )
    def test_as_one_event_at_a_time(
        self, durations: list[list[float]], latencies: list[float], buffer_size: int, exponent: float
    ) -> None:
        def seconds(rank: int, asked: TrainInstructions) -> float:
            return durations[rank][asked.server_round % len(durations[rank])]

        script = Script([float(rank + 1) for rank in range(len(durations))], seconds, latencies[: len(durations)])
        _, records, models = run(script, 6, buffer_size, exponent=exponent)
        expected = reference(script, 6, buffer_size, exponent)
        assert [record["virtual_seconds"] for record in records] == pytest.approx([time for time, _ in expected])
        assert models == pytest.approx([x for _, x in expected], abs=1e-5)
        for record in records:
            assert len(record["present"]) <= min(buffer_size, len(durations))
            assert sum(samples or 0 for samples in record["samples"]) == 8 * buffer_size
            assert all(share is None or share == pytest.approx(0.0, abs=1e-9) for share in record["idle_share"])
            busy = np.add(record["compute_seconds"], record["communication_seconds"])
            assert busy == pytest.approx([record["round_seconds"]] * len(durations))

    @pytest.mark.parametrize("seed", range(3))
    def test_whatever_order_the_engine_answers_in(self, seed: int) -> None:
        script = Script((2.0, 4.0, 8.0, 1.0), seconds=speeds(1.0, 1.25, 0.5, 4.0), latency=(0.25, 0.0, 0.0, 0.5))
        _, straight, models = run(script, 12, 3)
        _, shuffled, again = run(script, 12, 3, grid=ShuffledGrid(script, seed))
        assert again == models
        assert [_timeless(record) for record in shuffled] == [_timeless(record) for record in straight]

    def test_every_task_continues_the_workers_pass(self) -> None:
        script = Script((2.0, 4.0, 8.0), seconds=speeds(1.0, 1.25, 3.0))
        run(script, 9, 2)
        for rank in range(3):
            positions = [asked.position for worker, asked, _ in script.asked if worker == rank]
            assert positions == [8 * i for i in range(len(positions))]


def _timeless(record: Any) -> Any:
    return {name: value for name, value in record.items() if name != "wall_seconds"}


def learner(work: Any, **options: Any) -> FedBuff:
    return FedBuff(3, work=work, sgd=SGD(0.1, momentum=0.9), partition=tiny.partition(4), **options)


class TestLearning:
    @pytest.mark.parametrize(
        "work",
        [WORK, NonBlocking(batch_size=8, minibatch_size=2), FullBatch(local_steps=2, batch_size=8, minibatch_size=8)],
        ids=["full_batch", "non_blocking", "local_steps"],
    )
    @pytest.mark.parametrize("model", [tiny.linear, tiny.batch_norm], ids=["linear", "batch_norm"])
    def test_a_resumed_run_has_the_same_bits(self, work: Any, model: Any, tmp_path: Path) -> None:
        fleet = tiny.fleet(
            *(1.0, 1.0, 0.5, 0.25),
            jitter=Jitter("slowdown", probability=0.3, factor=3.0),
            leave_probability=0.1,
            return_probability=0.5,
        )

        def start(rounds: int, state: ServerState | None) -> tuple[ServerState, list[Any]]:
            records: list[Any] = []
            strategy = learner(work, state=state, on_round=[lambda record, state: records.append(record)])
            strategy.start(tiny.grid(4, model, devices=fleet), tiny.arrays(model), rounds)
            return strategy.state, records

        whole, all_records = start(9, None)
        half, _ = start(4, None)
        checkpoint.save(half, tmp_path)
        resumed, late_records = start(9, checkpoint.load(tmp_path))
        assert [_timeless(r) for r in late_records[:-1]] == [_timeless(r) for r in all_records[4:-1]]
        whole.wall_seconds = resumed.wall_seconds = 0.0
        for name, value in vars(whole).items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == getattr(resumed, name).tobytes(), name
        assert {k: v.tobytes() for k, v in whole.extras.items()} == {k: v.tobytes() for k, v in resumed.extras.items()}

    def test_a_resumed_run_sends_the_tasks_in_flight(self) -> None:
        def start(steps: int, state: ServerState | None) -> tuple[ServerState, dict[tuple[int, int], str]]:
            script = Script((2.0, 4.0), seconds=lambda rank, asked: (0.5 + asked.server_round / 8, 3.0)[rank])
            work = NonBlocking(batch_size=8, minibatch_size=4)
            strategy, _, _ = run(script, steps, 1, work=work, sgd=SGD(lr_milestones=(2,)), state=state)
            return strategy.state, {(rank, asked.server_round): f"{asked} from {x}" for rank, asked, x in script.asked}

        _, whole = start(4, None)
        state, _ = start(3, None)
        _, resumed = start(4, state)
        assert list(resumed) == [(0, 4), (1, 1)]
        assert resumed == {task: whole[task] for task in resumed}

    def test_one_worker_is_plain_sgd(self) -> None:
        options: dict[str, Any] = {"work": WORK, "sgd": SGD(0.1, momentum=0.9)}
        alone, plain = FedBuff(1, **options), AllReduce(**options)
        for strategy in (alone, plain):
            strategy.start(tiny.grid(1), tiny.arrays(), 6)
        assert np.allclose(alone.state.rows, plain.state.rows, atol=1e-6)
        assert alone.state.momentum is not None
        assert plain.state.momentum is not None
        assert np.allclose(alone.state.momentum, plain.state.momentum, atol=1e-6)
        assert alone.state.virtual_seconds == pytest.approx(plain.state.virtual_seconds)

    def test_the_first_full_buffer_is_a_synchronous_round(self) -> None:
        options: dict[str, Any] = {"work": WORK, "sgd": SGD(0.1), "partition": tiny.partition(4)}
        buffered, averaged = FedBuff(4, **options), AllReduce(**options)
        for strategy in (buffered, averaged):
            strategy.start(tiny.grid(4, devices=tiny.fleet(1.0, 1.0, 0.5, 0.25)), tiny.arrays(), 1)
        # The fast ones send more than one update meanwhile, so only equal speeds fill it with one from each.
        assert not np.allclose(buffered.state.rows, averaged.state.rows, atol=1e-6)
        buffered = FedBuff(4, **options)
        buffered.start(tiny.grid(4), tiny.arrays(), 1)
        assert np.allclose(buffered.state.rows, averaged.state.rows, atol=1e-6)

    def test_workers_can_evaluate(self) -> None:
        records: list[Any] = []
        learner(WORK, on_round=[lambda record, state: records.append(record)]).start(tiny.grid(4), tiny.arrays(), 30)
        accuracies = [np.mean(record["worker_accuracy"]) for record in records]
        assert accuracies[-1] > max(accuracies[0], 0.6)

    def test_an_update_is_bounded_from_the_model_that_it_started_from(self) -> None:
        script = Script((100.0, 100.0), seconds=speeds(1.0, 3.0))
        _, _, models = run(script, 4, 1, exponent=0.0, norm_limit=NormLimit(1.0))
        assert models == [1.0, 2.0, 3.0, 4.0]


class TestFaults:
    def test_a_failed_task_is_given_again_with_the_current_model(self) -> None:
        script = Script((2.0, 4.0), seconds=speeds(1.0, 3.0))
        script.fault = lambda rank, asked: "error" if rank == 1 and asked.server_round == 1 else None
        _, records, _ = run(script, 3, 1)
        assert [record["rejected"] for record in records] == [1, 0, 0]
        assert "no more power" in records[0]["rejections"]["1"]
        # It failed at 0 and is asked again when rank 0's first update has come, at 1, with that update in it.
        assert [(a.server_round, a.position, a.run_seconds, x) for rank, a, x in script.asked if rank == 1] == [
            *[(1, 0, 0.0, 0.0), (2, 0, 1.0, 1.0)]
        ]
        assert records[0]["idle_share"] == [0.0, 1.0]

    def test_a_rejected_reply_moves_nothing(self) -> None:
        script = Script((2.0, 4.0), fault=lambda rank, asked: "nan" if rank == 1 else None)
        strategy, records, models = run(script, 3, 2, exponent=0.0)
        assert all(record["present"] == [0] for record in records)
        assert all("not finite" in record["rejections"]["1"] for record in records)
        assert models == [1.0, 1.5, 1.75]
        assert strategy.state.cursors[1].tolist() == [0, 0]

    def test_all_fail(self) -> None:
        with pytest.raises(AllWorkersFailedError, match=r"round 1: no worker .*worker 0: .*no more power"):
            run(Script((0.0, 0.0), fault=lambda rank, _: "error"), 1, 1)

    def test_the_last_ones_fail_with_the_buffer_half_full(self) -> None:
        script = Script((2.0, 4.0), fault=lambda rank, asked: "error" if asked.server_round > 1 else None)
        with pytest.raises(AllWorkersFailedError):
            run(script, 1, 4)

    def test_a_worker_that_was_away_comes_back_to_the_current_model(self) -> None:
        script = Script((2.0, 4.0), away=lambda rank, asked: max(2.5 - asked.run_seconds, 0.0) if rank == 1 else 0.0)
        _, records, _ = run(script, 4, 1)
        assert [record["present"] for record in records] == [[0], [0], [0], [1]]
        assert [record["away"] for record in records] == [[1], [1], [1], []]
        assert [record["idle_share"][1] for record in records] == [None, None, None, 0.0]
        assert records[3]["virtual_seconds"] == 3.5
        assert [(a.run_seconds, x) for rank, a, x in script.asked if rank == 1] == [(0.0, 0.0), (2.5, 1.5)]

    def test_the_rest_is_away_for_good(self) -> None:
        with pytest.raises(AllWorkersFailedError):
            run(Script((0.0, 0.0), away=lambda rank, _: float("inf")), 1, 1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"buffer_size": 0}, "strategy.buffer_size must be at least 1; got 0"),
            ({"staleness_exponent": -1.0}, "strategy.staleness_exponent must be at least 0; got -1.0"),
            ({"server_learning_rate": 0.0}, "strategy.server_learning_rate must be above 0; got 0.0"),
        ],
    )
    def test_parameters_out_of_range(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FedBuff(**options)


class TestWallClock:
    def test_updates_count_as_they_come_in(self) -> None:
        # By their own accounts worker 1 is the fastest; here its reply comes three polls later.
        script = Script((2.0, 4.0), seconds=speeds(1.0, 0.5))
        _, records, _ = run(script, 4, 1, grid=scripted.SlowGrid(script, (0, 3)), wall_clock=True)
        assert [record["present"] for record in records] == [[0], [0], [1], [0]]
        assert [record["staleness"] for record in records] == [[0, None], [0, None], [None, 2], [1, None]]
        assert [record["virtual_seconds"] for record in records] == [1.0, 2.0, 2.0, 3.0]

    def test_a_silent_worker_does_not_matter(self) -> None:
        script = Script((2.0, 4.0))
        _, records, _ = run(script, 5, 2, grid=scripted.SlowGrid(script, (0, 10**9)), wall_clock=True)
        assert all(record["present"] == [0] for record in records)

    def test_no_worker_answers(self) -> None:
        script = Script((2.0, 4.0))
        strategy = FedBuff(1, work=WORK, wall_clock=True)
        with pytest.raises(AllWorkersFailedError, match="no worker replied in time"):
            strategy.start(scripted.SlowGrid(script, (10**9, 10**9)), scripted.model(), 1, timeout=0.05)

    def test_failures(self) -> None:
        script = Script((2.0, 4.0), fault=lambda rank, _: "error" if rank == 1 else None)
        _, records, _ = run(script, 3, 2, wall_clock=True)
        assert all(record["present"] == [0] for record in records)
        with pytest.raises(AllWorkersFailedError, match="no more power"):
            run(Script((0.0, 0.0), fault=lambda rank, _: "error"), 1, 1, wall_clock=True)

    def test_updates_that_come_during_an_evaluation_are_kept(self) -> None:
        script = Script((2.0, 4.0))
        strategy = FedBuff(1, work=WORK, wall_clock=True)
        strategy.start(scripted.SlowGrid(script, (0, 1)), scripted.model(), 6)
        assert min(len([1 for worker, _, _ in script.asked if worker == rank]) for rank in range(2)) >= 2

    def test_a_worker_that_comes_back_starts_from_the_current_model(self) -> None:
        # It is asked who it is during step 6, and then given the model 2 (1 - 2^-6).
        script = Script((2.0, 4.0))
        run(script, 8, 1, exponent=0.0, grid=_Rejoining(script, (0, 10**9)), wall_clock=True)
        assert [x for rank, _, x in script.asked if rank == 1] == [0.0, 1.96875]


class _Rejoining(scripted.SlowGrid):
    """Rank 1 is gone without a word after four tasks of rank 0, and there as another node."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        if len([1 for rank, _, _ in self.script.asked if rank == 0]) == 4 and 1001 in self._contexts:
            self._contexts[77] = self._contexts.pop(1001)
        return super().push_messages(messages)
