"""What is as large as a model and goes with it: what a worker gets beside its row, and what changes with the rows."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from echelon.algorithms.corrections import mean_gradient, quasi_global, tracked
from echelon.core import operations
from echelon.core.layout import Row
from echelon.core.mixing import Leaders, Mixing
from echelon.core.strategy import Strategy
from echelon.core.targets import RoundTargets
from echelon.protocol import wire
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import CORRECTION, DIRECTION
from echelon.server import remembered
from echelon.server.instructions import RoundInstructions, pull_payload
from echelon.server.options import Options
from echelon.server.replies import Reply
from echelon.server.state import QUASI_GLOBAL, ServerState

LEADERS = "leaders"
_TRACKING = "tracking"


def check_options(strategy: Strategy, options: Options) -> None:
    """Check the form in which models travel, and that gradients, where needed, can be computed from the replies.

    Each reply must then be what came of this round's row.

    Raises
    ------
    ValueError
        If an option stands against it.
    """
    if (chosen := options.get("wire", "fp32")) not in wire.CHOICES:
        raise ValueError(f"wire must be fp32 or bf16; got {chosen}")
    tracking, remembers = strategy.correction == "tracking", strategy.remembers
    if not tracking and not remembers:
        return
    if tracking and remembers:
        raise ValueError("strategy.correction must be none with work.estimator=memory; got tracking")
    key = "strategy.correction=tracking" if tracking else "work.estimator=memory"
    reason = f"with {key}, which computes gradients from whole updates"
    if options.get("robust"):
        raise ValueError(f"strategy.robust must be false {reason}; got true")
    if (limit := options.get("norm_limit")) is not None:
        raise ValueError(f"strategy.max_update_norm must be null {reason}; got {getattr(limit, 'value', 'auto')}")
    if options.get("fold_late"):
        raise ValueError(f"work.fold_late must be false {reason} of this round; got true")


def payload(
    strategy: Strategy, rank: int, server_round: int, state: ServerState, layout: ArrayLayout
) -> tuple[dict[str, ArrayRecord], dict[str, float]]:
    """Return what a worker gets beside its row: array records by key, and instructions that go with them."""
    records, settings = remembered.payload(strategy, rank, state, layout)
    if LEADERS in state.extras:
        pull = strategy.pull(server_round, Leaders(*state.extras[LEADERS]))
        if pull is not None:
            records, settings = pull_payload(pull, rank, state, layout)
    if strategy.host_momentum:
        buffer = _kept(QUASI_GLOBAL, state, layout)[rank]
        records[DIRECTION] = layout.parameter_arrays(np.float32(strategy.host_momentum) * buffer)
    if strategy.correction == "tracking":
        records[CORRECTION] = layout.parameter_arrays(_kept(_TRACKING, state, layout)[rank])
    return records, settings


def combine(
    strategy: Strategy, updated: Mapping[int, Row], mixing: Mixing, state: ServerState, layout: ArrayLayout
) -> float:
    """Combine the workers' new rows, and their momentum; return the distance by which mixing moved the mean model."""
    size, columns = layout.num_parameters, layout.num_mixed
    starts = {rank: state.rows[rank, :size].copy() for rank in updated} if strategy.host_momentum else {}
    drift = operations.combine(mixing.matrix, state.rows, updated, columns, strategy.order)
    if strategy.momentum_mixing == "mixed" and state.momentum is not None:
        operations.mix(mixing.matrix, state.momentum, columns)
    if strategy.momentum_mixing == "mixed" and state.optimizer.size:
        np.nan_to_num(state.optimizer, copy=False)  # of workers that were never present, and weigh nothing
        operations.mix(mixing.matrix, state.optimizer)
    length = strategy.work.local_steps * strategy.sgd.at(state.round + 1)
    for rank, start in starts.items():
        kept, now = _kept(QUASI_GLOBAL, state, layout), state.rows[rank, :size]
        kept[rank] = quasi_global(kept[rank], start, now, momentum=strategy.host_momentum, length=length)
    return drift


def mean_gradients(
    strategy: Strategy,
    replies: Mapping[int, Reply],
    instructions: RoundInstructions,
    state: ServerState,
    layout: ArrayLayout,
) -> dict[int, Row]:
    """Return the mean corrected gradients z_i of the workers that have finished something; none without tracking.

    The state must be that of the start of the round: the workers' momentum is compared with theirs.
    """
    found: dict[int, Row] = {}
    if strategy.correction != "tracking":
        return found
    mixed = layout.mixed
    for rank, reply in replies.items():
        if reply.row is None or not reply.report.samples:
            continue
        before = None if state.momentum is None else state.momentum[rank, mixed]
        buffer = _kept(QUASI_GLOBAL, state, layout)[rank, mixed] if strategy.host_momentum else None
        found[rank] = gradient_of(
            strategy, rank, reply, instructions, state.rows[rank, mixed], before, buffer, strategy.host_momentum
        )
    return found


def gradient_of(
    strategy: Strategy,
    rank: int,
    reply: Reply,
    targets: RoundTargets,
    start: Row,
    momentum: Row | None,
    direction: Row | None,
    weight: float = 1.0,
) -> Row:
    """Return the mean corrected gradient z_i of a worker that has finished something.

    Parameters
    ----------
    strategy : Strategy
        Of the run.
    rank : int
        The worker.
    reply : Reply
        What came of its round.
    targets : RoundTargets
        Of the round.
    start, momentum : float32 ndarray, shape (number of mixed parameters,)
        Its model and its momentum (None without) at the start of the round.
    direction : float32 ndarray, shape (number of mixed parameters,), or None
        What was added to each of its steps, times ``weight``; not part of the gradient.
    """
    assert reply.row is not None
    columns = slice(len(start))
    steps = reply.report.samples / int(targets.batch_sizes[rank])
    known: dict[str, Any] = {"learning_rate": strategy.sgd.at(targets.round), "steps": steps}
    if momentum is not None and reply.momentum is not None:
        before, after = momentum, reply.momentum[columns]
        known |= {"momentum": strategy.worker_sgd.momentum, "before": before, "after": after}
    found: Row = mean_gradient(start, reply.row[columns], **known)
    if direction is not None:  # every step, partial or not, had it
        found -= np.float32(weight * math.ceil(steps) / steps) * direction
    return found


def track(gradients: Mapping[int, Row], mixing: Mixing, state: ServerState, layout: ArrayLayout) -> None:
    """Update the corrections of the workers that have a mean gradient; the others keep theirs."""
    if not gradients:
        return
    ranks = np.array(sorted(gradients), dtype=np.int64)
    averaged = np.stack([gradients[rank] for rank in ranks.tolist()])
    operations.mix(operations.base_matrix(mixing, ranks)[np.ix_(ranks, ranks)], averaged)
    kept = _kept(_TRACKING, state, layout)
    for place, rank in enumerate(ranks.tolist()):
        kept[rank, layout.mixed] = tracked(kept[rank, layout.mixed], gradients[rank], averaged[place])


def _kept(name: str, state: ServerState, layout: ArrayLayout) -> NDArray[np.float32]:
    """Return the vectors that the state holds for all workers under a name, (N, number of parameters); zeros first."""
    if name not in state.extras:
        state.extras[name] = np.zeros((len(state.rows), layout.num_parameters), dtype=np.float32)
    held: NDArray[Any] = state.extras[name]
    return held
