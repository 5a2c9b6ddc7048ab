"""Train messages that travel as one, for processes that train several workers: over a grid in this process."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients import make_client_app
from echelon.engines.bundling import BundlingGrid
from echelon.engines.inline import InlineGrid
from echelon.protocol.bundles import is_bundle, join, refused, split
from strategies import FlowerStrategy
from tests import tiny
from tests.strategies.table import STRATEGIES

WORKERS = 9


class Processes(InlineGrid):
    """Answers each message by itself, as Flower's engine does; notes how many workers each train message is for."""

    def __init__(self, client_app: ClientApp, num_nodes: int = WORKERS) -> None:
        def alone(message: Message, context: Context) -> Message:
            return client_app(message, context)

        super().__init__(alone, num_nodes)  # type: ignore[arg-type]
        self.sizes: list[int] = []
        self.most_in_flight = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            if message.metadata.message_type == MessageType.TRAIN:
                self.sizes.append(len(split(message.content)) if is_bundle(message.content) else 1)
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Any = None, *, reply_to_message_ids: Any = None) -> Iterable[Message]:
        self.most_in_flight = max(self.most_in_flight, len(message_ids))
        return super().pull_messages(message_ids, reply_to_message_ids=reply_to_message_ids)


def run(make: Callable[..., FlowerStrategy], batched: Any, processes: int = 2, **options: Any) -> tuple[Any, Any]:
    app = options.pop("app", None) or tiny.app(devices=tiny.fleet(1, 1, 0.5, 0.25), batched=batched)
    grid = Processes(app)
    there = BundlingGrid(grid, lambda: processes, batched)
    return tiny.run(make, 2, WORKERS, on=there, partition=tiny.partition(WORKERS), **options), grid


@pytest.mark.parametrize(
    "name", ["all_reduce", "d_psgd mixed momentum", "matcha tracking, mixed", "al_dsgd in step", "over_selection"]
)
def test_strategies_get_the_replies_of_the_loop(name: str) -> None:
    bundled, grid = run(STRATEGIES[name], True)
    loop, alone = run(STRATEGIES[name], False)
    assert set(grid.sizes) == {5, 4}
    assert set(alone.sizes) == {1}
    np.testing.assert_allclose(bundled.rows, loop.rows, rtol=1e-5, atol=1e-6)
    for column in ("virtual_seconds", "minibatches", "present", "uplink_bytes", "downlink_bytes"):
        assert bundled.column(column) == loop.column(column)


@pytest.mark.parametrize(("processes", "sizes"), [(1, {9}), (2, {1})])
def test_auto_bundles_eight_workers_per_process(processes: int, sizes: set[int]) -> None:
    assert set(run(STRATEGIES["all_reduce"], "auto", processes)[1].sizes) == sizes


def test_few_messages_are_in_flight_at_a_time() -> None:
    _, grid = run(STRATEGIES["all_reduce"], False, processes=1)
    assert grid.most_in_flight == 4


def test_a_worker_that_fails_is_named_and_the_others_of_its_bundle_train_on(caplog: pytest.LogCaptureFixture) -> None:
    x, y = tiny.data()
    wrong = torch.full_like(y, 7)
    app = make_client_app(
        lambda rank, num_workers: (x, wrong if rank == 2 else y),
        tiny.linear,
        device="cpu",
        fleet=tiny.fleet(1.0),
        batched=True,
    )
    with caplog.at_level(logging.WARNING, "flwr"):
        found, grid = run(STRATEGIES["all_reduce"], True, app=app)
    assert set(grid.sizes) == {5, 4}
    assert found.column("present") == [[0, 1, 3, 4, 5, 6, 7, 8]] * 2
    assert "worker 2" in caplog.text
    assert "out of bounds" in caplog.text


def test_what_happens_to_a_bundle_happens_to_its_workers() -> None:
    class Dying(Processes):
        """The process that gets the first bundle dies."""

        def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
            replies = super().replies_to(message_ids)
            if len(self.sizes) == 2:
                train = [reply for reply in replies if reply.metadata.message_type == MessageType.TRAIN]
                for reply in train[:1]:
                    replies[replies.index(reply)] = lost(reply)
            return replies

    grid = Dying(tiny.app(batched=True))
    there = BundlingGrid(grid, lambda: 2, True)
    found = tiny.run(STRATEGIES["all_reduce"], 2, WORKERS, on=there, partition=tiny.partition(WORKERS))
    assert found.column("present") == [[5, 6, 7, 8], [*range(WORKERS)]]


def lost(reply: Message) -> Message:
    made = Message(Error(0, "the process is gone"), reply_to=reply)
    made.metadata.__dict__.update(reply.metadata.__dict__)
    return made


def test_a_process_that_cannot_batch_says_why_and_gets_single_messages(caplog: pytest.LogCaptureFixture) -> None:
    app = tiny.app(devices=tiny.fleet(1.0), batched=True, optimizer="adam")
    with caplog.at_level(logging.INFO, "flwr"):
        _, grid = run(STRATEGIES["all_reduce"], True, app=app)
    assert grid.sizes == [5, 4] + [1] * WORKERS
    assert "only the steps of sgd are batched, not those of adam" in caplog.text


def test_workers_that_real_time_measures_get_single_messages(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        _, grid = run(STRATEGIES["all_reduce"], True, start={"train_config": {"wall_clock": True}})
    assert set(grid.sizes) == {1}
    assert "real time measures every worker by itself" in caplog.text


def test_contents_are_those_that_were_joined() -> None:
    contents = [RecordDict({"metrics": MetricRecord({"a": i})}) for i in range(2)]
    joined = join([contents[0], "ValueError: x", contents[1]], "no reason")
    assert split(joined) == [contents[0], "ValueError: x", contents[1]]
    assert refused(joined) == "no reason"
    assert is_bundle(joined)
