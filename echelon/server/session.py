"""The parts of a run on a Flower server, opened once: transport, workers, layout, partition and state."""

from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from echelon.core.partition import Partition
from echelon.core.sgd import SGD
from echelon.core.work import FullBatch, WorkPolicy
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import INITIAL, TrainInstructions
from echelon.server.attendance import Attendance
from echelon.server.exchange import Exchange
from echelon.server.latency import Latencies
from echelon.server.model import lay_out_model
from echelon.server.nodes import Roster
from echelon.server.options import Options
from echelon.server.plausibility import Plausibility, believed_entries
from echelon.server.registration import Registration
from echelon.server.state import ServerState
from echelon.server.updates import ReplyProcessor


@dataclass(frozen=True)
class Session:
    """An open run.

    Attributes
    ----------
    exchange : Exchange
        Pushes and pulls messages.
    registration : Registration
        Handshakes with the nodes; holds the roster.
    attendance : Attendance
        Which workers are connected.
    layout : ArrayLayout
        Of the model's arrays in a row.
    partition : Partition
        Which samples each worker holds.
    shard_sizes : int64 ndarray, shape (N,)
        Samples by rank: assigned, or as the workers said in the handshake.
    processor : ReplyProcessor
        Checks replies.
    latencies : Latencies
        Of the workers' replies, in real time.
    state : ServerState
        All that a checkpoint holds.
    """

    exchange: Exchange
    registration: Registration
    attendance: Attendance
    layout: ArrayLayout
    partition: Partition
    shard_sizes: NDArray[np.int64]
    processor: ReplyProcessor
    latencies: Latencies
    state: ServerState

    @property
    def roster(self) -> Roster:
        """The workers by rank."""
        return self.registration.roster

    @property
    def mixed(self) -> slice:
        """Columns of a row that are mixed."""
        return self.layout.mixed

    def train_layout_of(self, rank: int) -> ArrayLayout:
        """Return the layout by which a worker's models travel for training."""
        return self.registration.train_layout(self.layout, rank)

    def layout_of(self, rank: int) -> ArrayLayout:
        """Return the layout by which a worker's model travels to be evaluated: never rounded."""
        return self.layout.form(rows=self.registration.takes_rows(rank))

    def free_ranks(self) -> list[int]:
        """Return the ranks whose nodes are connected and have answered every earlier message."""
        ranks, busy = self.roster.ranks(), self.exchange.busy_nodes
        return sorted(ranks[node] for node in self.exchange.grid.get_node_ids() if node in ranks and node not in busy)


def open_session(
    grid: Grid,
    arrays: ArrayRecord,
    config: ConfigRecord,
    options: Options,
    *,
    work: WorkPolicy,
    sgd: SGD,
    seed: int,
    fold_late: bool,
) -> Session:
    """Register the workers, take the partition, and make the initial state or continue from one.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    arrays : ArrayRecord
        The initial model.
    config : ConfigRecord
        Sent to the workers with the handshake.
    options : Options
        Of the strategy.
    work, sgd, seed, fold_late
        Of the strategy.

    Raises
    ------
    RosterError
        If the workers do not register.
    ValueError
        If the partition or the state to continue from is for other workers or another model.
    """
    exchange = Exchange(grid, options.get("window"), options.get("stop"))
    handshake = TrainInstructions(seed=seed, minibatch_size=work.minibatch_size)
    question = ConfigRecord({**config, INITIAL: list(arrays)})
    registration = Registration(exchange, handshake, question, options.get("nodes"), options.get("wire", "fp32"))
    roster_timeout = options.get("roster_timeout", 600.0)
    roster = registration.register(options.get("num_workers"), roster_timeout)
    layout, arrays = lay_out_model(arrays, roster, options.get("buffers") or ())
    by_median = options.get("robust", False) or bool(config.get("wall_clock", False))
    if by_median:
        roster.entries[:] = believed_entries(roster.entries)
    partition = options.get("partition") or Partition()
    if callable(partition):
        partition = partition(roster)
    sizes = partition.sizes
    if sizes is not None and len(sizes) != len(roster):
        raise ValueError(f"the partition is for {len(sizes)} workers; {len(roster)} have registered")
    num_momentum = layout.num_parameters if sgd.momentum and layout.has_momentum else 0
    initial = ServerState.initial(
        layout.row(arrays), len(roster), num_momentum, layout.exact(arrays), layout.optimizer_size
    )
    state = _continued(options.get("state"), initial)
    unknown = np.isnan(state.seconds_per_minibatch)
    state.seconds_per_minibatch[unknown] = roster.seconds_per_minibatch[unknown]
    shard_sizes = roster.shard_sizes if sizes is None else sizes
    limit, lowest = options.get("norm_limit"), options.get("loss_lower_bound", 0.0)
    wall_clock = bool(config.get("wall_clock", False))
    plausibility = Plausibility(work.minibatch_size, lowest, wall_clock, by_median)
    partial_work = not isinstance(work, FullBatch)
    processor = ReplyProcessor(
        exchange, registration, layout, shard_sizes, limit, fold_late, sgd, plausibility, partial_work
    )
    return Session(
        exchange,
        registration,
        Attendance(exchange, registration, roster_timeout),
        layout,
        partition,
        shard_sizes,
        processor,
        Latencies(len(roster)),
        state,
    )


def _continued(state: ServerState | None, initial: ServerState) -> ServerState:
    """Return the state to continue from, or the initial one."""
    if state is None:
        return initial
    if any(getattr(state, n).shape != getattr(initial, n).shape for n in ("rows", "exact", "optimizer")):
        raise ValueError(
            f"the state to continue from has {state.rows.shape[0]} models of {state.rows.shape[1]} values; "
            f"this run has {initial.rows.shape[0]} of {initial.rows.shape[1]}"
        )
    if initial.momentum is None or state.momentum is None:
        state.momentum = initial.momentum
    return state
