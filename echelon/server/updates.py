"""The intake of a round: every message is sorted into a usable reply, a worker that is away, or a rejection."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import WARNING

import numpy as np
from flwr.app import Message, MessageType
from flwr.supercore import log
from numpy.typing import NDArray

from echelon.core.sgd import SGD
from echelon.server.exchange import Exchange
from echelon.server.instructions import Orders
from echelon.server.layout import Layout, Row
from echelon.server.nodes import QUERY_TYPE
from echelon.server.registration import Enrolment
from echelon.server.replies import NormLimit, RejectedReplyError, Reply, read
from echelon.server.state import ServerState


@dataclass
class Received:
    """What came in during a round, by rank: replies, seconds that workers stay away, and reasons of rejections.

    ``folded`` are those of the replies that answer an earlier round; ``dropped`` are workers that were asked and that
    the round did without.
    """

    replies: dict[int, Reply] = field(default_factory=dict)
    away: dict[int, float] = field(default_factory=dict)
    rejections: dict[int, str] = field(default_factory=dict)
    folded: set[int] = field(default_factory=set)
    dropped: list[int] = field(default_factory=list)

    def silent(self, asked: Iterable[int]) -> list[int]:
        """Return the ranks that were asked and waited for, and have not answered."""
        return sorted(set(asked) - set(self.replies) - set(self.away) - set(self.rejections) - set(self.dropped))

    def failure(self, server_round: int) -> str:
        """Say why a round has failed in which nobody returned a usable model."""
        reasons = "; ".join(f"worker {rank}: {reason}" for rank, reason in sorted(self.rejections.items()))
        return f"round {server_round}: no worker returned a usable model ({reasons or 'nobody answered in time'})"


class Intake:
    """Reads the messages of every round.

    Parameters
    ----------
    exchange, enrolment, layout
        Of the run.
    shard_sizes : ndarray, shape (N,), or None
        Samples that the server assigned to each worker; None where workers use their own data.
    norm_limit : NormLimit, optional
        Bound on the norm of a local update.
    fold_late : bool
        Whether a reply to an earlier round counts in the round in which it arrives.
    sgd : SGD
        Of the run: a bound on updates bounds the steps of momentum too.
    """

    def __init__(
        self,
        exchange: Exchange,
        enrolment: Enrolment,
        layout: Layout,
        shard_sizes: NDArray[np.int64] | None,
        norm_limit: NormLimit | None,
        fold_late: bool,
        sgd: SGD,
    ) -> None:
        self.exchange = exchange
        self.enrolment = enrolment
        self.layout = layout
        self.shard_sizes = shard_sizes
        self.norm_limit = norm_limit
        self.fold_late = fold_late
        self.sgd = sgd
        self.received = Received()
        self._rows_of_silent: dict[int, Row] = {}

    def read(self, messages: Iterable[Message], orders: Orders, state: ServerState) -> Received:
        """Take the messages as they come; the result (meanwhile ``received``) does not depend on their order."""
        self.received = received = Received()
        for message in messages:
            rank = self.sender(message, MessageType.TRAIN)
            if rank is None:
                continue
            older = self._older_row(rank, message)
            try:
                shard_size = None if self.shard_sizes is None else int(self.shard_sizes[rank])
                reply = read(message, self.layout, int(orders.target_samples[rank]), shard_size)
                self._bound(reply, older, state.rows[rank], self.sgd.at(orders.server_round))
            except RejectedReplyError as error:
                log(WARNING, "Round %s: worker %s is left out: %s", orders.server_round, rank, error)
                received.rejections[rank] = str(error)
                continue
            if reply.row is None:
                received.away[rank] = reply.report.away_seconds
            else:
                received.replies[rank] = reply
                if older is not None:
                    received.folded.add(rank)
        received.replies = dict(sorted(received.replies.items()))
        return received

    def sender(self, message: Message, wanted: str) -> int | None:
        """Return the rank that a message counts for; None if it counts for nobody in this exchange.

        Parameters
        ----------
        message : Message
            Whatever has come in.
        wanted : str
            Type of the messages of this exchange. A late reply of the other kind waits for the next round.
        """
        if message.metadata.message_type == QUERY_TYPE:
            self.enrolment.admit(message)
            return None
        if self.exchange.is_late(message) and not self.fold_late:
            return None
        if message.metadata.message_type != wanted:
            if message.metadata.message_type == MessageType.TRAIN:
                self.exchange.keep(message)
            return None
        return self.enrolment.roster.ranks().get(self.exchange.node_of(message))

    def remember(self, silent: Iterable[int], state: ServerState) -> None:
        """Keep the rows that silent workers are still computing on, if their late updates are to count."""
        if self.fold_late:
            self._rows_of_silent |= {rank: state.rows[rank].copy() for rank in silent}

    def _older_row(self, rank: int, message: Message) -> Row | None:
        """Return the row from which a late reply started; None for a reply to this round."""
        older = self._rows_of_silent.pop(rank, None)
        return older if self.exchange.is_late(message) else None

    def _bound(self, reply: Reply, older: Row | None, now: Row, learning_rate: float) -> None:
        """Bound a local update, and carry a late one over to the row that its worker has by now."""
        if reply.row is None:
            return
        mixed = slice(self.layout.num_parameters)
        if self.norm_limit is not None:
            self.norm_limit.apply(reply.row[mixed], (now if older is None else older)[mixed])
            if reply.momentum is not None:
                self.norm_limit.apply_to_momentum(reply.momentum, learning_rate)
        if older is not None:
            reply.row[mixed] += now[mixed] - older[mixed]


def account(replies: Mapping[int, Reply], orders: Orders, state: ServerState, minibatch_size: int, ema: float) -> None:
    """Note in the state what the workers did: cursors, counts, speeds and momentum."""
    for rank, reply in replies.items():
        report = reply.report
        state.advance(rank, report.samples, report.num_examples)
        state.left_in_batch[rank] = orders.target_samples[rank] - report.samples
        state.count_samples(rank, report.samples)
        if report.samples and report.seconds > 0:  # a foreign client does not measure
            state.learn_speed(rank, report.seconds * minibatch_size / report.samples, ema)
        if state.momentum is not None and reply.momentum is not None:
            state.momentum[rank] = reply.momentum


def weighed(
    replies: Mapping[int, Reply],
    factors: NDArray[np.float64],
    state: ServerState,
    mixed: slice,
    norm_limit: NormLimit | None,
) -> dict[int, Row]:
    """Return the workers' new rows with their local updates scaled: x + k (y - x) on the mixed columns.

    The counts that make k above 1 are the worker's own account: with a ``norm_limit`` they do not carry it beyond.
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
            row[mixed] = old + np.float32(factor) * update
        updated[rank] = row
    return updated
