"""The options that all strategies share on a Flower server."""

from collections.abc import Callable, Iterable, Sequence
from threading import Event
from typing import Any, TypedDict

from flwr.app import ArrayRecord

from echelon.core.partition import Partition
from echelon.core.sgd import SGD
from echelon.core.strategy import Correction, MomentumMixing
from echelon.core.work import WorkPolicy
from echelon.protocol.wire import Wire
from echelon.server.evaluated import EvaluatedWorkers
from echelon.server.identity import Nodes
from echelon.server.nodes import Roster
from echelon.server.replies import AutoNormLimit, NormLimit
from echelon.server.state import ServerState


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
    nodes : Nodes
        Which node may have which rank; by default a rank belongs to the key of the node that had it first.
    partition : Partition or callable
        Which samples each worker holds, or a function of the roster that returns it; by default every worker uses all
        of its own data.
    eval_every : int
        Rounds between evaluations (1); the last round is always evaluated.
    evaluate_workers : EvaluatedWorkers
        Whose models an evaluation on the server covers, beside the consensus model; by default all.
    grace_seconds : float
        Real time beyond the budget after which a worker that has not replied is absent from the round. Infinite by
        default, which simulated clocks require.
    adapt_grace : bool
        Raise a finite grace to the latencies of the workers' replies (True; see
        :class:`echelon.server.latency.Latencies`).
    max_empty_rounds : int
        Attempts at a round, one after the other without a usable reply, after which the run fails (3).
    fold_late : bool
        Let a late reply count in the round in which it arrives, instead of discarding it.
    norm_limit : NormLimit or AutoNormLimit
        Bound on the norm of a local update, against hostile workers.
    loss_lower_bound : float
        Lowest value that the training loss can have: 0 (default) for cross-entropy; -inf for a loss without a bound. A
        reply that reports a lower one is rejected.
    robust : bool
        Bound what a few lying workers can do (false): an :class:`AutoNormLimit`, budgets that do not depend on the
        fastest workers, and the strategy's robust rule. See ``docs/algorithms/robust.md``.
    held_out_loss : callable
        (arrays) -> loss on a shared held-out batch, for strategies that rank the workers by it.
    momentum_mixing : {"local", "mixed", "quasi_global"}
        What becomes of momentum when models are combined, see :class:`echelon.core.strategy.Strategy`; by default
        ``local``, and ``mixed`` where there is one model.
    correction : {"none", "tracking"}
        What workers add to their gradients, see :class:`echelon.core.strategy.Strategy`.
    buffers : iterable of str
        Names of arrays that are not mixed; by default those of BatchNorm.
    window : int
        Messages in flight at a time (see :class:`echelon.server.exchange.Exchange`).
    wire : {"fp32", "bf16"}
        How models travel to and from the workers in training, see *Half the bytes* in ``docs/deployment.md``.
    roster_timeout : float
        Seconds to wait for the workers at the start, and for one of them when all are gone (600).
    state : ServerState
        Continues from this state instead of the initial model.
    on_round : sequence of callables
        Called with (record, state) after every round.
    stop : threading.Event
        Set it to end the run with a RunStoppedError.
    """

    work: WorkPolicy
    sgd: SGD
    seed: int
    num_workers: int | None
    nodes: Nodes | None
    partition: Partition | Callable[[Roster], Partition]
    eval_every: int
    evaluate_workers: EvaluatedWorkers
    grace_seconds: float
    adapt_grace: bool
    max_empty_rounds: int
    fold_late: bool
    norm_limit: NormLimit | AutoNormLimit | None
    loss_lower_bound: float
    robust: bool
    held_out_loss: Callable[[ArrayRecord], float] | None
    momentum_mixing: MomentumMixing | None
    correction: Correction
    buffers: Iterable[str] | None
    window: int | None
    wire: Wire
    roster_timeout: float
    state: ServerState | None
    on_round: Sequence[Callable[[dict[str, Any], ServerState], None]]
    stop: Event
