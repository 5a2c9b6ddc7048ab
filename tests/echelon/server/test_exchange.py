"""Replies that answer nothing: whatever sender they claim, they count for no worker."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict

from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import ARRAYS, METRICS
from strategies import FullBatch
from tests import tiny
from tests.strategies.table import STRATEGIES

VICTIM = 1003  # InlineGrid's node of rank 1, of four


class ForgingGrid(InlineGrid):
    """Hands over, before worker 1's own reply of round 3, a reply that says it comes from worker 1.

    Flower's grid reads both ids of a reply from what its sender has uploaded.
    """

    def __init__(self, answers: Callable[[list[str]], str]) -> None:
        super().__init__(tiny.app(devices=tiny.fleet(1)), 4)
        self.answers = answers
        self.sent: list[str] = []
        self.forged = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in messages:
            ids = list(super().push_messages([message]))
            if message.metadata.dst_node_id == VICTIM and message.metadata.message_type == "train":
                self.sent += ids
                if message.metadata.group_id == "3":
                    self.original = message
            pushed += ids
        return pushed

    def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().replies_to(message_ids)
        if len(self.sent) < 3 or self.forged:
            return replies
        self.forged += 1
        metrics = MetricRecord({"num-examples": 24, "samples": 16, "minibatches": 4, "train_loss": 0.1, "seconds": 1.6})
        content = RecordDict({ARRAYS: tiny.arrays(), METRICS: metrics})
        reply = Message(content, reply_to=self.original)
        reply.metadata.__dict__["_src_node_id"] = VICTIM
        reply.metadata.__dict__["_reply_to_message_id"] = self.answers(self.sent)
        return [reply, *replies]


@pytest.mark.parametrize("name", ["d_psgd", "fedbuff", "fedcompass"])
@pytest.mark.parametrize(
    "answers", [lambda sent: sent[0], lambda sent: "no message's", lambda sent: ""], ids=["pruned", "unknown", "none"]
)
def test_a_reply_to_no_message_is_refused_and_counted(name: str, answers: Callable[[list[str]], str]) -> None:
    work = FullBatch(batch_size=16, minibatch_size=4)
    known = tiny.run(STRATEGIES[name], 5, on=InlineGrid(tiny.app(devices=tiny.fleet(1)), 4), work=work)
    grid = ForgingGrid(answers)
    run = tiny.run(STRATEGIES[name], 5, on=grid, work=work)
    assert grid.forged == 1
    assert sum(run.column("rejected")) == 1
    assert run.column("present") == known.column("present")
    np.testing.assert_array_equal(run.rows, known.rows)


def test_a_second_reply_to_the_same_message_is_refused() -> None:
    """The first one counts; the forged one would have come after it."""

    class Repeating(InlineGrid):
        def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
            replies = super().replies_to(message_ids)
            return [*replies, *replies]

    known = tiny.run(STRATEGIES["d_psgd"], 3)
    run = tiny.run(STRATEGIES["d_psgd"], 3, on=Repeating(tiny.app(devices=tiny.fleet(1, 1, 0.5, 0.25)), 4))
    np.testing.assert_array_equal(run.rows, known.rows)
    assert run.column("rejected")[1:] == [4, 4]
