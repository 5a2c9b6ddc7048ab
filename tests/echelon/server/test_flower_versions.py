"""Runs over grids with the signatures of every supported Flower version and of the one announced."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from echelon.engines.inline import InlineGrid
from echelon.server.nodes import QUERY_TYPE
from strategies import AllWorkersFailedError
from tests import tiny
from tests.strategies.table import STRATEGIES, Factory
from tests.strategies.test_contract import UNEQUAL, bits, each_strategy, simulated

RING = STRATEGIES["d_psgd"]
SHORT: dict[str, Any] = {"timeout": 0.05, "evaluate_fn": lambda server_round, arrays: None}


class FakeGrid(Grid):
    """A grid that is no InlineGrid and has nothing but what Flower's interface has."""

    def __init__(self) -> None:
        self.inner = InlineGrid(tiny.app(devices=UNEQUAL), 4)
        self.sent: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *values: Any, **named: Any) -> Message:
        return self.inner.create_message(*values, **named)

    def get_node_ids(self) -> Iterable[int]:
        return iter(self.inner.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            (message_id,) = self.inner.push_messages([message])
            self.sent[message_id] = message
            yield message_id

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As in Flower 1.41 and 1.42."""
        return iter(self.inner.replies_to(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise AssertionError("it would wait for everybody")


class AnnouncedGrid(FakeGrid):
    """As announced for Flower 1.43: replies are asked for by position or by their new name, and some never come."""

    def __init__(self, unreadable: Callable[[Message], bool] = lambda message: False) -> None:
        super().__init__()
        self.unreadable = unreadable

    def pull_messages(  # type: ignore[override]
        self, reply_to_message_ids: Iterable[str] | None = None, *, message_ids: Iterable[str] | None = None
    ) -> Iterable[Message]:
        assert message_ids is None, "that asks for messages, not for replies to them"
        assert reply_to_message_ids, "that asks for nothing, or for everything"
        ids = list(reply_to_message_ids)
        return iter(self.inner.replies_to([i for i in ids if not self.unreadable(self.sent[i])]))


class RefusingGrid(AnnouncedGrid):
    """Refuses messages to worker 1 in round 2, as a SuperLink that does not know its node any more."""

    def __init__(self, refusal: list[Any]) -> None:
        super().__init__()
        self.refusal = refusal

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            yield from self.refusal if second_task_of_worker_one(message) else super().push_messages([message])


def to_worker_one(message: Message) -> bool:
    return message.metadata.dst_node_id == 1003  # InlineGrid's node of rank 1, of four


def second_task_of_worker_one(message: Message) -> bool:
    metadata = message.metadata
    return to_worker_one(message) and metadata.message_type == MessageType.TRAIN and metadata.group_id == "2"


@pytest.mark.parametrize("grid", [FakeGrid, AnnouncedGrid])
@pytest.mark.parametrize("name", ["al_dsgd", "fedbuff", "fedcompass"])  # all, nobody, a group is waited for
def test_a_run_is_the_same_over_every_signature(name: str, grid: Callable[[], Grid]) -> None:
    known = tiny.run(STRATEGIES[name], on=InlineGrid(tiny.app(devices=UNEQUAL), 4))
    run = tiny.run(STRATEGIES[name], on=grid())
    assert simulated(run.records) == simulated(known.records)
    assert bits(run.strategy.state) == bits(known.strategy.state)


class TestUnreadableReplies:
    def test_the_round_ends_at_its_deadline_without_the_worker(self) -> None:
        """Nothing says that the reply is lost: the node is sent nothing more, as one that is still computing."""
        run = tiny.run(RING, 4, on=AnnouncedGrid(second_task_of_worker_one), start=SHORT)
        assert run.column("present") == [[0, 1, 2, 3], *[[0, 2, 3]] * 3]
        assert run.column("late") == [[], [1], [], []]
        assert run.column("rejected") == [0] * 4

    def test_of_everybody(self) -> None:
        grid = AnnouncedGrid(lambda message: message.metadata.message_type == MessageType.TRAIN)
        with pytest.raises(AllWorkersFailedError, match="no worker replied in time"):
            tiny.run(RING, 2, on=grid, start=SHORT)

    def test_in_the_handshake(self) -> None:
        grid = AnnouncedGrid(lambda message: message.metadata.message_type == QUERY_TYPE and to_worker_one(message))
        run = tiny.run(RING, 2, on=grid, start=SHORT, roster_timeout=0.05, num_workers=4)
        assert run.column("present") == [[0, 2, 3]] * 2


@pytest.mark.parametrize("refusal", [[], [""], [None]], ids=["no id", "empty id", "None"])
def test_a_refused_message_leaves_the_worker_out_of_one_round(refusal: list[Any]) -> None:
    run = tiny.run(RING, 3, on=RefusingGrid(refusal), start=SHORT)
    assert run.column("present") == [[0, 1, 2, 3], [0, 2, 3], [0, 1, 2, 3]]
    assert run.strategy.session.exchange.busy_nodes == set()


class TestInlineGrid:
    @pytest.mark.parametrize(
        "pull",
        [
            lambda grid, ids: grid.pull_messages(ids),
            lambda grid, ids: grid.pull_messages(message_ids=ids),
            lambda grid, ids: grid.pull_messages(reply_to_message_ids=ids),
        ],
        ids=["by position", "1.42", "1.43"],
    )
    def test_every_way_to_ask_for_replies(self, pull: Callable[[InlineGrid, Iterable[str]], Iterable[Message]]) -> None:
        grid = tiny.grid(2)
        content = RecordDict({"config": ConfigRecord()})
        messages = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
        first, second = grid.push_messages(messages)
        assert [reply.metadata.reply_to_message_id for reply in pull(grid, iter([second]))] == [second]
        assert [reply.metadata.reply_to_message_id for reply in pull(grid, [first, second])] == [first]
        assert list(pull(grid, [first, second])) == []

    def test_no_worker_asked(self) -> None:
        assert list(tiny.grid(1).pull_messages()) == []


class TestShouldStop:
    """The keyword that Flower 1.43 adds to ``Strategy.start``."""

    @each_strategy
    def test_the_run_ends_after_the_current_round(self, make: Factory) -> None:
        rounds: list[int] = []
        options: dict[str, Any] = {"on_round": [lambda record, state: rounds.append(record["round"])]}
        run = tiny.run(make, 5, start={"should_stop": lambda: rounds[-1:] == [2]}, **options)
        whole = tiny.run(make, 2)
        assert rounds == [1, 2]
        assert bits(run.strategy.state) == bits(whole.strategy.state)
        assert run.result.arrays is not None
        assert np.array_equal(tiny.vector(run.result.arrays), tiny.vector(run.strategy.consensus()))

    @pytest.mark.parametrize("should_stop", [None, lambda: False])
    def test_nothing_changes_without_a_reason_to_stop(self, should_stop: Callable[[], bool] | None) -> None:
        run = tiny.run(RING, start={"should_stop": should_stop})
        assert bits(run.strategy.state) == bits(tiny.run(RING).strategy.state)
