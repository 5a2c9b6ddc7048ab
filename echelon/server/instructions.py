"""A round's instructions: how much each worker computes, and the message that tells it."""

import math
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from echelon.core.mixing import Pull
from echelon.core.partition import Partition
from echelon.core.sgd import SGD
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


class RoundInstructions(RoundTargets):
    """What the workers are instructed to compute in one round."""

    def instructions(self, rank: int, seed: int, work: WorkPolicy, sgd: SGD, state: ServerState) -> TrainInstructions:
        """Return one worker's instructions."""
        epoch, position = state.cursors[rank].tolist()
        return TrainInstructions(
            seed=seed,
            server_round=self.round,
            rank=rank,
            local_steps=work.local_steps,
            batch_size=int(self.batch_sizes[rank]),
            minibatch_size=work.minibatch_size,
            target_samples=int(self.target_samples[rank]),
            min_minibatches=work.min_minibatches,
            budget_seconds=self.budget_seconds,
            seconds_per_minibatch=float(state.seconds_per_minibatch[rank]),
            learning_rate=sgd.at(self.round),
            schedule=sgd.factor(self.round),
            keeps_optimizer=bool(state.optimizer.size),
            momentum=sgd.momentum,
            weight_decay=sgd.weight_decay,
            epoch=epoch,
            position=position,
            run_seconds=state.virtual_seconds,
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
    content = RecordDict({ARRAYS: layout.write(state.rows[rank], state.exact[rank]), CONFIG: config})
    if state.momentum is not None:
        content[MOMENTUM] = layout.parameter_arrays(state.momentum[rank])
    if state.optimizer.size and not np.isnan(state.optimizer[rank]).any():
        content[OPTIMIZER] = layout.optimizer_arrays(state.optimizer[rank])
    if partition.parts is not None:
        content[SHARD] = shard_record(partition.parts[rank])
    for name, arrays in extra.items():
        content[name] = arrays
    group = str(config["server-round"])
    return Message(content, dst_node_id=node_id, message_type=MessageType.TRAIN, group_id=group)


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
