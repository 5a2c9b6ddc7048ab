"""All that a run is on the server: what a checkpoint holds and a resumed run starts from."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from echelon.core.tally import Tally

# In ``ServerState.extras``: the momentum that the server keeps for each worker, (N, number of parameters).
QUASI_GLOBAL = "quasi_global"


@dataclass(kw_only=True)
class ServerState(Tally):
    """Server state of a run of N workers with rows of P values, beside their :class:`Tally`.

    Attributes
    ----------
    rows : float32 ndarray, shape (N, P)
        Every worker's model: parameters, then buffers.
    exact : uint8 ndarray, shape (N, B)
        Bytes of the buffers that have no place in a row.
    momentum : float32 ndarray, shape (N, number of parameters), or None
        Momentum buffers, where the workers use momentum.
    optimizer : float32 ndarray, shape (N, S)
        State of other optimisers; NaN where a worker has not taken a step yet.
    virtual_seconds, wall_seconds : float
        The run's time axes.
    extras : dict of str to ndarray
        State of a particular strategy.
    """

    rows: NDArray[np.float32]
    exact: NDArray[np.uint8]
    momentum: NDArray[np.float32] | None
    optimizer: NDArray[np.float32]
    virtual_seconds: float = 0.0
    wall_seconds: float = 0.0
    extras: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    @classmethod
    def initial(
        cls,
        row: NDArray[np.float32],
        num_workers: int,
        num_momentum: int,
        exact: NDArray[np.uint8] | None = None,
        optimizer_size: int = 0,
    ) -> "ServerState":
        """Return the state before the first round: every worker starts from ``row`` and ``exact``."""
        return cls(
            rows=np.tile(row, (num_workers, 1)),
            exact=np.tile(np.empty(0, dtype=np.uint8) if exact is None else exact, (num_workers, 1)),
            momentum=np.zeros((num_workers, num_momentum), dtype=np.float32) if num_momentum else None,
            optimizer=np.full((num_workers, optimizer_size), np.nan, dtype=np.float32),
            **vars(Tally.none(num_workers)),
        )
