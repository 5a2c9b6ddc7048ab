"""Workers that do what a test says: one parameter, y = x + (c - x) / 2, given seconds, given faults."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import (
    ARRAYS,
    CONFIG,
    CORRECTION,
    DIRECTION,
    METRICS,
    ROSTER_QUERY,
    RosterEntry,
    TrainInstructions,
    TrainReport,
)


@dataclass
class Script:
    """What the workers do; ``asked`` notes every task as (rank, instructions, model)."""

    centres: Sequence[float]
    seconds: Callable[[int, TrainInstructions], float] = lambda rank, instructions: 1.0
    latency: Sequence[float] | None = None
    fault: Callable[[int, TrainInstructions], str | None] = lambda rank, instructions: None
    away: Callable[[int, TrainInstructions], float] = lambda rank, instructions: 0.0
    share: Callable[[int, TrainInstructions], float] = lambda rank, instructions: 1.0
    loss: Callable[[int, TrainInstructions], float] = lambda rank, instructions: float(rank)
    asked: list[tuple[int, TrainInstructions, float]] = field(default_factory=list)


def model(value: float = 0.0) -> ArrayRecord:
    return ArrayRecord({"w": Array(np.array([value], dtype=np.float32))})


def app(script: Script) -> ClientApp:
    made = ClientApp()

    @made.query(ROSTER_QUERY)
    def roster(message: Message, context: Context) -> Message:
        rank = int(context.node_config["partition-id"])
        latency = script.latency[rank] if script.latency else 0.0
        return Message(RosterEntry(rank, 100, latency_seconds=latency).to_content(), reply_to=message)

    @made.train()
    def train(message: Message, context: Context) -> Message:
        rank = int(context.node_config["partition-id"])
        instructions = TrainInstructions.from_config(message.content.config_records[CONFIG])
        x = float(message.content.array_records[ARRAYS]["w"].numpy()[0])
        script.asked.append((rank, instructions, x))
        if away := script.away(rank, instructions):
            return Message(RecordDict({METRICS: TrainReport(100, away_seconds=away).to_metrics()}), reply_to=message)
        match script.fault(rank, instructions):
            case "error":
                raise RuntimeError("no more power")
            case "nan":
                x = float("nan")
        done = int(instructions.target_samples * script.share(rank, instructions))
        minibatches = -(-done // instructions.minibatch_size)
        report = TrainReport(
            100, done, minibatches, script.loss(rank, instructions), script.seconds(rank, instructions)
        )
        trained = x + (script.centres[rank] - x) / 2
        for key, weight in ((DIRECTION, 1.0), (CORRECTION, script.share(rank, instructions))):
            if key in message.content:
                force = float(message.content.array_records[key]["w"].numpy()[0])
                trained -= instructions.learning_rate * weight * force
        content = RecordDict({ARRAYS: model(trained), METRICS: report.to_metrics()})
        return Message(content, reply_to=message)

    return made


def grid(script: Script) -> InlineGrid:
    return InlineGrid(app(script), len(script.centres))


class SlowGrid(InlineGrid):
    """Hands each rank's replies to training over only after so many polls: slow devices without a clock."""

    def __init__(self, script: Script, polls: Sequence[int]) -> None:
        super().__init__(app(script), len(script.centres))
        self.script = script
        self.polls = polls
        self._left: dict[str, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids: list[str] = []
        for message in messages:
            rank = int(self._contexts[message.metadata.dst_node_id].node_config["partition-id"])
            ids += super().push_messages([message])
            self._left[ids[-1]] = self.polls[rank] if message.metadata.message_type == "train" else 0
        return ids

    def replies_to(self, message_ids: Iterable[str]) -> list[Message]:
        ready = []
        for message_id in message_ids:
            if self._left[message_id] == 0:
                ready.append(message_id)
            else:
                self._left[message_id] -= 1
        return super().replies_to(ready)
