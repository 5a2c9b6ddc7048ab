"""A round's instructions: how much each worker computes, and the message that tells it."""

import math
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from echelon.core.layout import Bytes, Row
from echelon.core.mixing import Pull
from echelon.core.partition import Partition
from echelon.core.sgd import SGD
from echelon.core.tally import Tally
from echelon.core.targets import RoundTargets
from echelon.core.work import WorkPolicy
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import (
    ANCHOR,
    ARRAYS,
    CONFIG,
    MOMENTUM,
    OPTIMIZER,
    SHARD,
    TrainInstructions,
    shard_record,
)
from echelon.server.state import ServerState

_SHORTEST_POLL_SECONDS = 0.1
# An empty poll costs a SuperLink about 10 ms of CPU time: all polls together at most half of a processor.
_POLL_SECONDS_PER_WORKER = 0.02


class RoundInstructions(RoundTargets):
    """What the workers are instructed to compute in one round."""

    def instructions(self, rank: int, seed: int, work: WorkPolicy, sgd: SGD, state: ServerState) -> TrainInstructions:
        """Return one worker's instructions."""
        made = worker_instructions(self, rank, seed, work, sgd, state)
        pace = poll_seconds(len(self.batch_sizes))
        return replace(
            made, keeps_optimizer=bool(state.optimizer.size), run_seconds=state.virtual_seconds, poll_seconds=pace
        )


def poll_seconds(num_workers: int) -> float:
    """Return how often a node should ask for messages at most, lest all of them keep the SuperLink busy.

    Examples
    --------
    >>> from echelon.server.instructions import poll_seconds
    >>> poll_seconds(3), poll_seconds(12)
    (0.1, 0.24)
    """
    return max(_SHORTEST_POLL_SECONDS, _POLL_SECONDS_PER_WORKER * num_workers)


def worker_instructions(
    targets: RoundTargets, rank: int, seed: int, work: WorkPolicy, sgd: SGD, tally: Tally
) -> TrainInstructions:
    """Return what follows from a round's targets and the workers' numbers for one worker."""
    epoch, position = tally.cursors[rank].tolist()
    return TrainInstructions(
        seed=seed,
        server_round=targets.round,
        rank=rank,
        local_steps=work.local_steps,
        batch_size=int(targets.batch_sizes[rank]),
        minibatch_size=work.minibatch_size,
        target_samples=int(targets.target_samples[rank]),
        min_minibatches=work.min_minibatches,
        budget_seconds=targets.budget_seconds,
        seconds_per_minibatch=float(tally.seconds_per_minibatch[rank]),
        learning_rate=sgd.at(targets.round),
        schedule=sgd.factor(targets.round),
        momentum=sgd.momentum,
        weight_decay=sgd.weight_decay,
        epoch=epoch,
        position=position,
    )


@dataclass
class Round:
    """A round that has begun: its instructions, who gets them, and the grace in seconds beyond the budget."""

    instructions: RoundInstructions
    recipients: list[int]
    grace_seconds: float = math.inf
    downlink_bytes: int = 0


def train_message(
    node_id: int,
    rank: int,
    config: ConfigRecord,
    state: ServerState,
    layout: ArrayLayout,
    partition: Partition,
    extra: dict[str, ArrayRecord],
) -> Message:
    """Return the message that carries a worker's row, momentum, shard and instructions."""
    momentum = None if state.momentum is None else state.momentum[rank]
    model = (state.rows[rank], state.exact[rank], momentum, state.optimizer[rank])
    content = train_content(config, layout, *model, partition, rank)
    for name, arrays in extra.items():
        content[name] = arrays
    group = str(config["server-round"])
    return Message(content, dst_node_id=node_id, message_type=MessageType.TRAIN, group_id=group)


def train_content(
    config: ConfigRecord,
    layout: ArrayLayout,
    row: Row,
    exact: Bytes,
    momentum: Row | None,
    optimizer: Row,
    partition: Partition,
    rank: int,
) -> RecordDict:
    """Return what a worker needs for a round: its model, the optimiser's state, its shard and instructions."""
    content = RecordDict({ARRAYS: layout.write(row, exact), CONFIG: config})
    if momentum is not None:
        content[MOMENTUM] = layout.parameter_arrays(momentum)
    if optimizer.size and not np.isnan(optimizer).any():
        content[OPTIMIZER] = layout.optimizer_arrays(optimizer)
    if partition.parts is not None:
        content[SHARD] = shard_record(partition.parts[rank])
    return content


def pull_payload(
    pull: Pull, rank: int, state: ServerState, layout: ArrayLayout
) -> tuple[dict[str, ArrayRecord], dict[str, float]]:
    """Return what a worker's steps are pulled towards, the weighted rows (where nothing is mixed, its own), and how."""
    if not pull.strengths[rank]:
        return {}, {}
    shares = pull.weights[rank].astype(np.float32)
    used = np.flatnonzero(shares)
    anchor = state.rows[rank, : layout.num_parameters].copy()
    anchor[layout.mixed] = shares[used] @ state.rows[used, layout.mixed]
    return {ANCHOR: layout.parameter_arrays(anchor)}, {"anchor_strength": float(pull.strengths[rank])}


def limited(config: ConfigRecord | None, timeout: float) -> ConfigRecord:
    """Return what to send beside a round's instructions: with it, a worker that hangs gives up when the server does."""
    return ConfigRecord({"round_timeout_seconds": float(timeout), **(config or {})})
