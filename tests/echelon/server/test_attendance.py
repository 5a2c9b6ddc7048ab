"""Workers that hang, that are all gone for a moment, that all fail once in the handshake, that come and go."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from flwr.app import Message

from echelon.server import attendance, exchange, registration
from echelon.server.nodes import QUERY_TYPE
from strategies import DPSGD, FedBuff, FullBatch, RosterError, RunStoppedError
from tests import tiny
from tests.grids import Clock, DelayedGrid

RING = partial(DPSGD, "ring")
WORK = FullBatch(batch_size=16, minibatch_size=4)
EVERYBODY = [0, 1, 2, 3]
START: dict[str, Any] = {"timeout": 3600.0, "evaluate_fn": lambda server_round, arrays: None}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (attendance, exchange, registration):
        monkeypatch.setattr(module, "time", made)
    return made


class Outage(DelayedGrid):
    """Nodes in ``gone(now, round)`` are not connected; a round is over when its record is there."""

    def __init__(self, clock: Clock, gone: Callable[[float, int], set[int]]) -> None:
        super().__init__(tiny.app(devices=tiny.fleet(1)), 4, clock, lambda *message: 0.0)
        self.gone = gone
        self.rounds_done = 0

    def get_node_ids(self) -> list[int]:
        gone = self.gone(self.clock.now, self.rounds_done)
        return [node for node, rank in self.ranks.items() if rank not in gone]


def run(grid: DelayedGrid, rounds: int = 3, make: Any = RING, **options: Any) -> tiny.Run:
    chosen: dict[str, Any] = {"work": WORK, "start": START, "stop": grid.clock, **options}
    return tiny.run(make, rounds, on=grid, **chosen)


def counting(grid: Outage) -> list[Any]:
    return [lambda record, state: setattr(grid, "rounds_done", record["round"])]


class TestHungWorker:
    def test_the_timeout_ends_its_round(self, clock: Clock) -> None:
        """Blocking work has no budget: nothing but the timeout ends a round in which a worker hangs."""
        hangs = lambda rank, number, kind: 1e9 if kind == "train" and rank == 1 and number == 2 else 0.0  # noqa: E731
        grid = DelayedGrid(tiny.app(devices=tiny.fleet(1)), 4, clock, hangs)
        done = run(grid, start={**START, "timeout": 60.0})
        assert done.column("present") == [EVERYBODY, [0, 2, 3], [0, 2, 3]]
        assert 60 <= clock.now < 62

    def test_its_trainer_gives_up_when_the_server_does(self, clock: Clock) -> None:
        told = []
        grid = DelayedGrid(tiny.app(devices=tiny.fleet(1)), 4, clock, lambda *message: 0.0)
        push = grid.push_messages

        def pushing(messages: Any) -> Any:
            for message in messages:
                told.append((message.metadata.message_type, message.content.config_records["config"]))
                yield from push([message])

        grid.push_messages = pushing  # type: ignore[method-assign]
        run(grid, 1, start={**START, "timeout": 60.0})
        assert {config.get("round_timeout_seconds") for kind, config in told if kind == "train"} == {60.0}
        assert {config.get("round_timeout_seconds") for kind, config in told if kind == QUERY_TYPE} == {float("inf")}


class TestEverybodyIsGone:
    @pytest.mark.parametrize("make", [RING, partial(FedBuff, 2), partial(FedBuff, 2, wall_clock=True)])
    def test_the_run_waits_and_goes_on(self, make: Any, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        grid = Outage(clock, lambda now, rounds: set(EVERYBODY) if rounds == 1 and now < 100 else set())
        done = run(grid, 3, make, on_round=counting(grid), roster_timeout=500.0)
        assert done.column("round") == [1, 2, 3]
        assert all(done.column("present"))
        assert 100 <= clock.now < 110
        assert caplog.text.count("No worker is connected: the run waits up to 500 s for one") == 1
        assert caplog.text.count("Workers are connected again: the run goes on") == 1

    def test_for_good(self, clock: Clock) -> None:
        grid = Outage(clock, lambda now, rounds: set(EVERYBODY) if rounds else set())
        with pytest.raises(RosterError, match="no worker has been connected for 500 s"):
            run(grid, on_round=counting(grid), roster_timeout=500.0)
        assert 500 <= clock.now < 510

    def test_the_wait_can_be_stopped(self, clock: Clock) -> None:
        grid = Outage(clock, lambda now, rounds: {*EVERYBODY, *([] if now < 50 else stop())} if rounds else set())

        def stop() -> Iterator[int]:
            clock.set()
            return iter(())

        with pytest.raises(RunStoppedError):
            run(grid, on_round=counting(grid), roster_timeout=500.0)
        assert clock.now < 60

    def test_they_come_back_under_other_ids(self, clock: Clock) -> None:
        grid = DelayedGrid(tiny.app(devices=tiny.fleet(1)), 4, clock, lambda rank, number, kind: 5.0)

        def leave(record: Any, state: Any) -> None:
            if record["round"] == 1:
                for rank in EVERYBODY:
                    grid.take_away(rank)
                    grid.bring_back(rank, node_id=50 + rank)

        done = run(grid, 3, on_round=[leave])
        assert done.column("round") == [1, 2, 3]
        assert done.column("present")[-1] == EVERYBODY


class TestHandshake:
    def failing(self, clock: Clock, times: int) -> DelayedGrid:
        grid = DelayedGrid(tiny.app(devices=tiny.fleet(1)), 4, clock, lambda *message: 0.0)
        good, asked = grid._client_app, []

        def app(message: Message, context: Any) -> Message:
            asked.append(message.metadata.message_type)
            if len(asked) <= 4 * times:
                raise OSError("the disk is not mounted yet")
            return good(message, context)

        grid._client_app = app  # type: ignore[assignment]
        return grid

    def test_all_fail_once(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        done = run(self.failing(clock, 1))
        assert done.column("present") == [EVERYBODY] * 3
        assert caplog.text.count("every worker failed in the handshake") == 1

    def test_all_fail_always(self, clock: Clock) -> None:
        with pytest.raises(RosterError, match=r"every worker failed in the handshake: .*the disk is not mounted yet"):
            run(self.failing(clock, 100))
        assert clock.now < 10

    def test_no_time_is_left(self, clock: Clock) -> None:
        with pytest.raises(RosterError, match="every worker failed in the handshake"):
            run(self.failing(clock, 1), roster_timeout=0.5)


class TestFlapping:
    def test_a_worker_that_comes_and_goes_holds_up_no_round(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is back under another id in every round, and never answers the handshake's query."""
        silent = lambda rank, number, kind: 1e9 if kind == QUERY_TYPE and clock.now >= 1 else 0.0  # noqa: E731
        grid = DelayedGrid(tiny.app(devices=tiny.fleet(1)), 4, clock, silent)

        def flap(record: Any, state: Any) -> None:
            clock.now += 1.0
            grid.take_away(2)
            grid.bring_back(2, node_id=50 + record["round"])

        done = run(grid, 8, on_round=[flap])
        assert done.column("present") == [EVERYBODY, *[[0, 1, 3]] * 7]
        assert clock.now < 20, "no round waits for the answer"
        assert caplog.text.count("[2]") == 1

    def test_one_that_is_there_in_every_other_round(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        grid = Outage(clock, lambda now, rounds: {2} if rounds % 2 else set())
        done = run(grid, 8, on_round=counting(grid))
        assert done.column("present") == [EVERYBODY, [0, 1, 3]] * 4
        assert caplog.text.count("Workers [2] are not connected") == 1
        assert caplog.text.count("Workers [2] come and go") == 1
