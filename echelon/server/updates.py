"""From a round's messages to local updates: replies by rank, absent workers, rejections, and the scaled new rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from logging import WARNING

import numpy as np
from flwr.app import Message, MessageType
from flwr.supercore import log
from numpy.typing import NDArray

from echelon.core.layout import Row
from echelon.core.sgd import SGD
from echelon.core.strategy import RoundNumbers
from echelon.core.work import WorkPolicy
from echelon.protocol.layout import ArrayLayout
from echelon.server.exchange import Exchange
from echelon.server.instructions import RoundInstructions
from echelon.server.nodes import QUERY_TYPE
from echelon.server.plausibility import Plausibility
from echelon.server.registration import Registration
from echelon.server.replies import AutoNormLimit, NormLimit, RejectedReplyError, Reply, read
from echelon.server.state import ServerState

_NORMS = "update_norms"


@dataclass
class Received:
    """The outcome of a round's messages, by rank.

    Attributes
    ----------
    replies : dict of int to Reply
        Usable replies.
    offline : dict of int to float
        Workers that said they are offline, and for how many seconds.
    rejections : dict of int to str
        Why a reply was rejected.
    disbelieved : dict of int to str
        Which number of a usable reply counts as another one, and why.
    late : set of int
        Workers whose reply in ``replies`` answers an earlier round.
    dropped : list of int
        Workers that received a message and whose reply the round does without.
    """

    replies: dict[int, Reply] = field(default_factory=dict)
    offline: dict[int, float] = field(default_factory=dict)
    rejections: dict[int, str] = field(default_factory=dict)
    disbelieved: dict[int, str] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    dropped: list[int] = field(default_factory=list)

    def timed_out(self, recipients: Iterable[int]) -> list[int]:
        """Return the recipients that were waited for and have not replied."""
        accounted_for = {*self.replies, *self.offline, *self.rejections, *self.dropped}
        return sorted(set(recipients) - accounted_for)

    def failure(self, server_round: int) -> str:
        """Return why a round has failed in which no worker returned a usable model."""
        reasons = "; ".join(f"worker {rank}: {reason}" for rank, reason in sorted(self.rejections.items()))
        return f"round {server_round}: no worker returned a usable model ({reasons or 'no worker replied in time'})"


class ReplyProcessor:
    """Processes the messages of every round.

    Parameters
    ----------
    exchange, registration, layout
        Of the run.
    shard_sizes : int64 ndarray, shape (N,)
        Samples of each worker, as assigned or as it said in the handshake; 0 where that is unknown.
    norm_limit : NormLimit or AutoNormLimit, optional
        Bound on the norm of a local update.
    fold_late : bool
        Whether a reply to an earlier round counts in the round in which it arrives.
    sgd : SGD
        Of the run: a bound on updates also bounds the steps of momentum.
    plausibility : Plausibility
        Bounds what reports may say.
    partial_work : bool
        Whether a worker may have to stop before it has done all of a round's work.

    Attributes
    ----------
    norm_limit : NormLimit or None
        The bound of the latest round.
    whole_rounds : set of int
        Workers whose clients cannot stop within a budget.
    """

    def __init__(
        self,
        exchange: Exchange,
        registration: Registration,
        layout: ArrayLayout,
        shard_sizes: NDArray[np.int64],
        norm_limit: NormLimit | AutoNormLimit | None,
        fold_late: bool,
        sgd: SGD,
        plausibility: Plausibility,
        partial_work: bool = False,
    ) -> None:
        self.exchange = exchange
        self.registration = registration
        self.layout = layout
        self.shard_sizes = shard_sizes
        self._auto_limit = norm_limit if isinstance(norm_limit, AutoNormLimit) else None
        self.norm_limit = None if isinstance(norm_limit, AutoNormLimit) else norm_limit
        self.fold_late = fold_late
        self.sgd = sgd
        self.partial_work = partial_work
        self.plausibility = plausibility
        self.received = Received()
        self.whole_rounds: set[int] = set()
        self._in_flight: dict[int, _Start] = {}

    def read(self, messages: Iterable[Message], instructions: RoundInstructions, state: ServerState) -> Received:
        """Process messages in arrival order; the result, also kept in ``received``, is independent of that order."""
        self.received = received = Received()
        for message in messages:
            rank = self.sender(message, MessageType.TRAIN)
            if rank is None:
                continue
            older = self._older_start(rank, message)
            start = older or _Start.now(state, rank)
            try:
                shard_size = int(self.shard_sizes[rank]) or None
                layout = self.registration.train_layout(self.layout, rank)
                reply = read(message, layout, int(instructions.target_samples[rank]), shard_size)
                reply = reply.made_whole(layout, start.row, start.momentum)
                reply = self._believed(reply, rank, message, instructions, state)
                if older is not None or self.norm_limit is not None or self._auto_limit is not None:
                    reply = reply.writable()
                if self._auto_limit is None:
                    self._bound(reply, start.row, instructions)
                if older is not None:
                    self._carry_over(reply, older.row, state.rows[rank])
            except RejectedReplyError as error:
                self._reject(rank, error, instructions)
                continue
            if reply.row is None:
                received.offline[rank] = reply.report.away_seconds
            else:
                received.replies[rank] = reply
                self._note_whole_round(rank, reply)
                if older is not None:
                    received.late.add(rank)
        received.replies = dict(sorted(received.replies.items()))
        if self._auto_limit is not None:
            self._bound_by_median(self._auto_limit, instructions, state)
        return received

    def sender(self, message: Message, wanted: str) -> int | None:
        """Return the rank that a message counts for, or None if it counts for no worker in this exchange.

        Parameters
        ----------
        message : Message
            Any message that has arrived.
        wanted : str
            Type of the messages of this exchange. A late reply of the other type is kept for the next round.
        """
        kind = self.exchange.type_of(message)
        if kind == QUERY_TYPE:
            self.registration.admit(message)
            return None
        if self.exchange.is_late(message) and not self.fold_late:
            return None
        if kind != wanted:
            if kind == MessageType.TRAIN:
                self.exchange.keep(message)
            return None
        return self.registration.roster.rank_of(self.exchange.node_of(message))

    def remember(self, timed_out: Iterable[int], state: ServerState) -> None:
        """Keep what timed-out workers are still training, if their late updates are to count."""
        if self.fold_late:
            self._in_flight |= {rank: _Start.now(state, rank).copy() for rank in timed_out}

    def _note_whole_round(self, rank: int, reply: Reply) -> None:
        """Name a worker, once, whose client cannot stop within a budget where that is asked for."""
        if reply.obeys_budget or not self.partial_work or rank in self.whole_rounds:
            return
        self.whole_rounds.add(rank)
        log(
            WARNING,
            "Worker %s has a client that does whole rounds: its reply does not say how many samples it has processed, "
            "so it cannot stop within the budget. See Budget in docs/client.md",
            rank,
        )

    def _older_start(self, rank: int, message: Message) -> "_Start | None":
        """Return what a late reply started from; None for a reply to this round."""
        older = self._in_flight.pop(rank, None)
        return older if self.exchange.is_late(message) else None

    def _reject(self, rank: int, error: RejectedReplyError, instructions: RoundInstructions) -> None:
        log(WARNING, "Round %s: worker %s is left out: %s", instructions.round, rank, error)
        self.received.rejections[rank] = str(error)

    def _believed(
        self, reply: Reply, rank: int, message: Message, instructions: RoundInstructions, state: ServerState
    ) -> Reply:
        """Return a reply with numbers that can be believed; raises as :meth:`Plausibility.check`."""
        if reply.row is None:
            return reply
        minibatches = instructions.target_minibatches(rank, self.plausibility.minibatch_size)
        self.plausibility.check(reply.report, minibatches, self.exchange.seconds_since_push(message))
        announced = self.registration.roster.entries[rank].seconds_per_minibatch
        report, reason = self.plausibility.believed(reply.report, state.seconds_per_minibatch, announced)
        if reason is not None:
            log(WARNING, "Round %s: worker %s is not believed: %s", instructions.round, rank, reason)
            self.received.disbelieved[rank] = reason
        return replace(reply, report=report)

    def _bound_by_median(self, limit: AutoNormLimit, instructions: RoundInstructions, state: ServerState) -> None:
        """Bound all updates of the round by the median of the latest norms, this round's included."""
        replies, mixed = self.received.replies, self.layout.mixed
        norms = state.extras.get(_NORMS, np.full(len(state.rows), np.nan)).astype(np.float64)
        for rank, reply in replies.items():
            if reply.row is not None:
                norms[rank] = np.linalg.norm(reply.row[mixed] - state.rows[rank, mixed])
        self.norm_limit = limit.at(norms)
        for rank, reply in list(replies.items()):
            try:
                self._bound(reply, state.rows[rank], instructions)
            except RejectedReplyError as error:
                self._reject(rank, error, instructions)
                self.received.late.discard(rank)
                del replies[rank]
        state.extras[_NORMS] = norms if self.norm_limit is None else np.minimum(norms, self.norm_limit.value)

    def _bound(self, reply: Reply, start: Row, instructions: RoundInstructions) -> None:
        """Bound a local update that started from ``start``."""
        if reply.row is None or self.norm_limit is None:
            return
        mixed = self.layout.mixed
        self.norm_limit.apply(reply.row[mixed], start[mixed])
        if reply.momentum is not None:
            self.norm_limit.apply_to_momentum(reply.momentum, self.sgd.at(instructions.round))

    def _carry_over(self, reply: Reply, older: Row, now: Row) -> None:
        """Carry a late update, which started from ``older``, over to its worker's current row."""
        if reply.row is not None:
            mixed = self.layout.mixed
            reply.row[mixed] += now[mixed] - older[mixed]


@dataclass(frozen=True)
class _Start:
    """What a worker was sent, before any rounding: its row and momentum."""

    row: Row
    momentum: Row | None

    @classmethod
    def now(cls, state: ServerState, rank: int) -> "_Start":
        return cls(state.rows[rank], None if state.momentum is None else state.momentum[rank])

    def copy(self) -> "_Start":
        return _Start(self.row.copy(), None if self.momentum is None else self.momentum.copy())


def advance_state(
    replies: Mapping[int, Reply], instructions: RoundInstructions, state: ServerState, work: WorkPolicy
) -> None:
    """Note in the state what the workers did: cursors, counts, speeds and momentum."""
    for rank, reply in replies.items():
        report = reply.report
        state.note(
            rank,
            samples=report.samples,
            seconds=report.seconds,
            target_samples=int(instructions.target_samples[rank]),
            shard_size=report.num_examples,
            work=work,
        )
        if reply.exact is not None:
            state.exact[rank] = reply.exact
        if state.momentum is not None and reply.momentum is not None:
            state.momentum[rank] = reply.momentum
        if reply.optimizer is not None:
            state.optimizer[rank] = reply.optimizer


def scale_updates(
    replies: Mapping[int, Reply],
    factors: NDArray[np.float64],
    state: ServerState,
    mixed: slice,
    norm_limit: NormLimit | None,
) -> dict[int, Row]:
    """Return the workers' new rows with their local updates scaled: x + k (y - x) on the mixed columns.

    k > 1 depends on counts the worker reports itself, so the scaled update is clipped to ``norm_limit`` again.
    """
    updated: dict[int, Row] = {}
    for factor, (rank, reply) in zip(factors, replies.items(), strict=True):
        row = reply.row
        if row is None:
            continue
        if factor != 1.0:
            old = state.rows[rank, mixed]
            update = row[mixed] - old
            if norm_limit is not None and factor > 1:
                factor = norm_limit.cap(factor, update)
            row = row.copy()
            row[mixed] = old + np.float32(factor) * update
        updated[rank] = row
    return updated


def round_numbers(instructions: RoundInstructions, replies: Mapping[int, Reply], state: ServerState) -> RoundNumbers:
    """Return what a strategy is told of a round."""
    counts = np.zeros((2, len(state.rows)), dtype=np.int64)
    for rank, reply in replies.items():
        counts[:, rank] = reply.report.samples, reply.report.num_examples
    return RoundNumbers(
        round=instructions.round,
        present=np.array(list(replies), dtype=np.int64),
        losses=state.losses,
        samples=counts[0],
        mean_samples=state.mean_samples,
        shard_sizes=counts[1],
        batch_sizes=instructions.batch_sizes,
    )
