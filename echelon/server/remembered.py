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
    """Return what a worker gets: h_i, if there is one, and that its step is to be filled in."""
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
    """Set h_i to what each worker's one step used in place of its gradient; without finished samples that was h_i.

    The state must be that of the start of the round. From x+ = x - lr v+ and v+ = mu v + h + decay x.
    """
    if not strategy.remembers:
        return
    rate = np.float32(strategy.sgd.at(instructions.round))
    size, kept = layout.num_parameters, _kept(state, layout)
    for rank, reply in replies.items():
        if reply.row is not None and reply.report.samples:
            moved = state.rows[rank, :size] - reply.row[:size]
            kept[rank] = moved / rate - _carried(strategy, rank, state, size)


def steps_of_absent(
    strategy: Strategy,
    replies: Mapping[int, Reply],
    instructions: RoundInstructions,
    state: ServerState,
    layout: ArrayLayout,
) -> dict[int, Row]:
    """Return the rows of absent workers after a step by h_i, and note their momentum; only where there is one model."""
    if not strategy.remembers or not strategy.counts_absent or not replies:
        return {}
    rate = np.float32(strategy.sgd.at(instructions.round))
    size, kept = layout.num_parameters, _kept(state, layout)
    rows: dict[int, Row] = {}
    for rank in np.flatnonzero(~np.isnan(kept[:, 0])).tolist():
        if rank in replies:
            continue
        velocity = _carried(strategy, rank, state, size) + kept[rank]
        rows[rank] = state.rows[rank].copy()
        rows[rank][:size] -= rate * velocity
        if state.momentum is not None:
            state.momentum[rank] = velocity
    return rows


def counted(numbers: RoundNumbers, absent: Mapping[int, Row], shard_sizes: Ints) -> RoundNumbers:
    """Return the numbers of a round in which absent workers weigh as much as they hold."""
    if not absent:
        return numbers
    counts = np.isin(np.arange(len(shard_sizes)), list(absent))
    return replace(numbers, shard_sizes=np.where(counts, shard_sizes, numbers.shard_sizes))


def _carried(strategy: Strategy, rank: int, state: ServerState, size: int) -> Row:
    """Return what enters a worker's step beside its gradient: momentum and weight decay."""
    carried: Row = np.float32(strategy.sgd.weight_decay) * state.rows[rank, :size]
    if state.momentum is not None:
        carried += np.float32(strategy.worker_sgd.momentum) * state.momentum[rank]
    if QUASI_GLOBAL in state.extras:
        carried += np.float32(strategy.host_momentum) * np.asarray(state.extras[QUASI_GLOBAL][rank], dtype=np.float32)
    return carried


def _kept(state: ServerState, layout: ArrayLayout) -> NDArray[np.float32]:
    """Return h of all workers, (N, number of parameters); NaN where there is none yet."""
    if _MEMORY not in state.extras:
        state.extras[_MEMORY] = np.full((len(state.rows), layout.num_parameters), np.nan, dtype=np.float32)
    held: NDArray[Any] = state.extras[_MEMORY]
    return held
