"""What is as large as a model and goes with it: what a worker gets beside its row, and what changes with the rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from echelon.algorithms.corrections import quasi_global
from echelon.core import operations
from echelon.core.layout import Row
from echelon.core.mixing import Leaders, Mixing
from echelon.core.strategy import Strategy
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import DIRECTION
from echelon.server.instructions import pull_payload
from echelon.server.state import ServerState

LEADERS = "leaders"
_QUASI_GLOBAL = "quasi_global"


def check(strategy: Strategy, layout: ArrayLayout) -> None:
    """Check that the workers' steps are those of the SGD that a strategy's momentum is for.

    Raises
    ------
    ValueError
        If they have another optimiser, or keep its state.
    """
    if strategy.host_momentum and not layout.has_momentum:
        raise ValueError("strategy.momentum_mixing=quasi_global needs optimizer.name=sgd and optimizer.state=server")


def payload(
    strategy: Strategy, rank: int, server_round: int, state: ServerState, layout: ArrayLayout
) -> tuple[dict[str, ArrayRecord], dict[str, float]]:
    """Return what a worker gets beside its row: array records by key, and instructions that go with them."""
    records: dict[str, ArrayRecord] = {}
    settings: dict[str, float] = {}
    if LEADERS in state.extras:
        pull = strategy.pull(server_round, Leaders(*state.extras[LEADERS]))
        if pull is not None:
            records, settings = pull_payload(pull, rank, state, layout)
    if strategy.host_momentum:
        buffer = _kept(_QUASI_GLOBAL, state, layout)[rank]
        records[DIRECTION] = layout.parameter_arrays(np.float32(strategy.host_momentum) * buffer)
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
        kept, now = _kept(_QUASI_GLOBAL, state, layout), state.rows[rank, :size]
        kept[rank] = quasi_global(kept[rank], start, now, momentum=strategy.host_momentum, length=length)
    return drift


def _kept(name: str, state: ServerState, layout: ArrayLayout) -> NDArray[np.float32]:
    """Return the vectors that the state holds for all workers under a name, (N, number of parameters); zeros first."""
    if name not in state.extras:
        state.extras[name] = np.zeros((len(state.rows), layout.num_parameters), dtype=np.float32)
    held: NDArray[Any] = state.extras[name]
    return held
