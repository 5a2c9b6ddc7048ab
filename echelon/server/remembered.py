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

_MEMORY = "memory"


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
    """Set h_i to the mean of what each worker's steps used as gradients; without finished samples that was h_i.

    The state must be that of the start of the round. From x_k+1 = x_k - lr v_k+1 and v_k+1 = mu v_k + g_k + decay x_k,
    summed over the steps: what the round does not tell, the sum of the x_k, is taken as if they lay evenly on the line
    from the first to the last, which is exact for one step, or without weight decay.
    """
    if not strategy.remembers:
        return
    rate, steps = np.float32(strategy.sgd.at(instructions.round)), strategy.work.local_steps
    size, kept = layout.num_parameters, _kept(state, layout)
    decay, mu = np.float32(strategy.sgd.weight_decay), np.float32(strategy.worker_sgd.momentum)
    for rank, reply in replies.items():
        if reply.row is None or not reply.report.samples:
            continue
        before = state.rows[rank, :size]
        moved = before - reply.row[:size]
        total = moved / rate - decay * (steps * before - np.float32((steps - 1) / 2) * moved)
        if state.momentum is not None and reply.momentum is not None:
            total -= mu * (moved / rate - reply.momentum + state.momentum[rank])
        kept[rank] = total / np.float32(steps) - _global(strategy, rank, state)


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
    rate = np.float32(strategy.sgd.at(instructions.round))
    decay, mu = np.float32(strategy.sgd.weight_decay), np.float32(strategy.worker_sgd.momentum)
    size, kept = layout.num_parameters, _kept(state, layout)
    rows: dict[int, Row] = {}
    for rank in np.flatnonzero(~np.isnan(kept[:, 0])).tolist():
        if rank in replies:
            continue
        gradient = kept[rank] + _global(strategy, rank, state)
        velocity = np.zeros_like(gradient) if state.momentum is None else state.momentum[rank]
        row = state.rows[rank].copy()
        for _ in range(strategy.work.local_steps):
            velocity = mu * velocity + gradient + decay * row[:size]
            row[:size] -= rate * velocity
        rows[rank] = row
        if state.momentum is not None:
            state.momentum[rank] = velocity
    return rows


def counted(numbers: RoundNumbers, absent: Mapping[int, Row], shard_sizes: Ints) -> RoundNumbers:
    """Return the numbers of a round in which absent workers weigh as much as they hold."""
    if not absent:
        return numbers
    counts = np.isin(np.arange(len(shard_sizes)), list(absent))
    return replace(numbers, shard_sizes=np.where(counts, shard_sizes, numbers.shard_sizes))


def _global(strategy: Strategy, rank: int, state: ServerState) -> Row | np.float32:
    """Return the global momentum that enters each of a worker's steps."""
    if QUASI_GLOBAL not in state.extras:
        return np.float32(0.0)
    return np.float32(strategy.host_momentum) * np.asarray(state.extras[QUASI_GLOBAL][rank], dtype=np.float32)


def _kept(state: ServerState, layout: ArrayLayout) -> NDArray[np.float32]:
    """Return h of all workers, (N, number of parameters); NaN where there is none yet."""
    if _MEMORY not in state.extras:
        state.extras[_MEMORY] = np.full((len(state.rows), layout.num_parameters), np.nan, dtype=np.float32)
    held: NDArray[Any] = state.extras[_MEMORY]
    return held
