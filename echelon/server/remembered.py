"""The gradients that ``work.estimator=memory`` remembers: earlier ones stand for what workers did not finish."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from echelon.core.layout import Row
from echelon.core.mixing import Ints
from echelon.core.strategy import RoundNumbers, Strategy
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import MEMORY
from echelon.server.instructions import RoundInstructions
from echelon.server.replies import Reply
from echelon.server.state import QUASI_GLOBAL, ServerState


def payload(
    strategy: Strategy, rank: int, state: ServerState, layout: ArrayLayout
) -> tuple[dict[str, ArrayRecord], dict[str, float]]:
    """Return what a worker gets: h_i, if there is one, and that its steps are to be filled in."""
    if not strategy.remembers:
        return {}, {}
    kept = _kept(state, layout)[rank]
    known = not np.isnan(kept[0])
    return ({MEMORY: layout.parameter_arrays(kept)} if known else {}), {"remembers": True}


def remember(
    strategy: Strategy,
    replies: Mapping[int, Reply],
    instructions: RoundInstructions,
    state: ServerState,
    layout: ArrayLayout,
) -> None:
    """Set h_i of the workers that have finished samples; the state must be that of the start of the round."""
    if not strategy.remembers:
        return
    kept = _kept(state, layout)
    for rank, reply in replies.items():
        if reply.row is not None and reply.report.samples:
            kept[rank] = mean_used(strategy, instructions.round, reply, *_start(strategy, rank, state, layout))


def steps_of_absent(
    strategy: Strategy,
    replies: Mapping[int, Reply],
    instructions: RoundInstructions,
    state: ServerState,
    layout: ArrayLayout,
) -> dict[int, Row]:
    """Return the rows of absent workers after steps by h_i, and note their momentum; only where there is one model."""
    if not strategy.remembers or not strategy.counts_absent or not replies:
        return {}
    kept = _kept(state, layout)
    rows: dict[int, Row] = {}
    for rank in np.flatnonzero(~np.isnan(kept[:, 0])).tolist():
        if rank in replies:
            continue
        start = _start(strategy, rank, state, layout)
        rows[rank] = state.rows[rank].copy()
        rows[rank][: layout.num_parameters], velocity = steps(strategy, instructions.round, kept[rank], *start)
        if state.momentum is not None:
            state.momentum[rank] = velocity
    return rows


def mean_used(
    strategy: Strategy, round_number: int, reply: Reply, start: Row, momentum: Row | None, direction: Row | None
) -> Row:
    """Return the mean of what a worker's steps used as gradients, its new h_i.

    From x_k+1 = x_k - lr v_k+1 and v_k+1 = mu v_k + g_k + decay x_k, summed over the steps: what the round does not
    tell, the sum of the x_k, is taken as if they lay evenly on the line from the first to the last, which is exact for
    one step, or without weight decay.

    Parameters
    ----------
    strategy : Strategy
        Of the run.
    round_number : int
        Of the round.
    reply : Reply
        Of a worker that has finished samples.
    start, momentum : float32 ndarray, shape (number of parameters,)
        Its model, and its momentum (None without), at the start of the round.
    direction : float32 ndarray, shape (number of parameters,), or None
        What was added to each of its steps.
    """
    assert reply.row is not None
    count, decay = strategy.work.local_steps, np.float32(strategy.sgd.weight_decay)
    moved: Row = start - reply.row[: len(start)]
    total: Row = moved / strategy.sgd.at(round_number)
    if momentum is not None and reply.momentum is not None:
        total -= np.float32(strategy.worker_sgd.momentum) * (total - reply.momentum + momentum)
    total /= np.float32(count)
    total -= decay * (start - np.float32((count - 1) / (2 * count)) * moved)
    return total if direction is None else total - direction


def steps(
    strategy: Strategy, round_number: int, gradient: Row, start: Row, momentum: Row | None, direction: Row | None
) -> tuple[Row, Row]:
    """Return a worker's parameters and momentum after the steps of a round by one gradient; arguments as above."""
    decay, mu = np.float32(strategy.sgd.weight_decay), np.float32(strategy.worker_sgd.momentum)
    rate, row = np.float32(strategy.sgd.at(round_number)), start
    force = gradient if direction is None else gradient + direction
    velocity = np.zeros_like(start) if momentum is None else momentum
    for _ in range(strategy.work.local_steps):
        velocity = mu * velocity + force + decay * row
        row = row - rate * velocity
    return row, velocity


def counted(numbers: RoundNumbers, absent: Mapping[int, Row], shard_sizes: Ints) -> RoundNumbers:
    """Return the numbers of a round in which absent workers weigh as much as they hold."""
    if not absent:
        return numbers
    counts = np.isin(np.arange(len(shard_sizes)), list(absent))
    return replace(numbers, shard_sizes=np.where(counts, shard_sizes, numbers.shard_sizes))


def _start(
    strategy: Strategy, rank: int, state: ServerState, layout: ArrayLayout
) -> tuple[Row, Row | None, Row | None]:
    """Return a worker's parameters, its momentum, and what is added to each of its steps."""
    momentum = None if state.momentum is None else state.momentum[rank]
    direction = None
    if QUASI_GLOBAL in state.extras:
        direction = np.float32(strategy.host_momentum) * np.asarray(state.extras[QUASI_GLOBAL][rank], dtype=np.float32)
    return state.rows[rank, : layout.num_parameters], momentum, direction


def _kept(state: ServerState, layout: ArrayLayout) -> NDArray[np.float32]:
    """Return h of all workers, (N, number of parameters); NaN where there is none yet."""
    if MEMORY not in state.extras:
        state.extras[MEMORY] = np.full((len(state.rows), layout.num_parameters), np.nan, dtype=np.float32)
    held: NDArray[Any] = state.extras[MEMORY]
    return held
