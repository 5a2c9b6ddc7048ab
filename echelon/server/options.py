"""What every strategy can be told."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from echelon.core.sgd import SGD
from echelon.core.work import WorkPolicy
from echelon.server.nodes import Roster
from echelon.server.replies import NormLimit
from echelon.server.state import ServerState


@dataclass(frozen=True)
class Plan:
    """Who trains on what.

    Attributes
    ----------
    parts : sequence of int64 ndarray, or None
        Sample indices by rank; None lets every worker use all of its own data.
    batch_ratios : ndarray, shape (N,), or None
        Capability ratios that the workers' batches are proportional to; None for equal batches.
    """

    parts: Sequence[NDArray[np.int64]] | None = None
    batch_ratios: NDArray[np.float64] | None = None


class Options(TypedDict, total=False):
    """Keyword arguments of every strategy.

    work : WorkPolicy
        :class:`FullBatch` (default) or :class:`NonBlocking`.
    sgd : SGD
        Hyper-parameters of the workers.
    seed : int
        Root of every draw; 0 by default.
    num_workers : int
        Workers to wait for; by default the nodes that are there.
    plan : Plan or callable
        A plan, or a function of the roster that makes one; by default every worker uses its own data.
    eval_every : int
        Rounds between evaluations (1); the last round is always evaluated.
    grace_seconds : float
        Real time beyond the budget after which a silent worker is absent from the round; infinite by default, as it
        must be where clocks are simulated.
    fold_late : bool
        Let a late reply count in the round in which it arrives, instead of discarding it.
    norm_limit : NormLimit
        Bound on the norm of a local update, against hostile workers.
    buffers : iterable of str
        Names of arrays that are not mixed; by default those of BatchNorm.
    window : int
        Messages under way at a time (see :class:`echelon.server.exchange.Exchange`).
    roster_timeout : float
        Seconds to wait for the workers at the start (600).
    state : ServerState
        Goes on from here instead of from the initial model.
    on_round : sequence of callables
        Called with (record, state) after every round.
    stop : threading.Event
        Set it to end the run with a RunStoppedError.
    """

    work: WorkPolicy
    sgd: SGD
    seed: int
    num_workers: int | None
    plan: Plan | Callable[[Roster], Plan]
    eval_every: int
    grace_seconds: float
    fold_late: bool
    norm_limit: NormLimit | None
    buffers: Iterable[str] | None
    window: int | None
    roster_timeout: float
    state: ServerState | None
    on_round: Sequence[Callable[[dict[str, Any], ServerState], None]]
    stop: Event
