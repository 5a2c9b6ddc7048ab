"""Over-selection: more workers are asked than are awaited; the first replies are averaged, the rest are dropped."""

import math
from dataclasses import replace
from typing import Unpack

import numpy as np

from echelon.server.metrics import communication_seconds
from echelon.server.options import Options
from echelon.server.updates import Received

from .all_reduce import AllReduce


class OverSelection(AllReduce):
    """Ask all N workers, average the first k = ceil(keep N) replies and drop the others (Bonawitz et al., MLSys 2019).

    First is who needs the fewest seconds of computing and communication as reported, ties by rank, so that simulated
    and real devices agree. The round takes as long as the k-th. A dropped worker is absent: its update is lost and its
    cursor stays where it was. ``keep=1`` is :class:`strategies.all_reduce.AllReduce`.

    Parameters
    ----------
    keep : float
        Fraction in (0, 1] of the workers whose replies are awaited.
    wall_clock : bool
        Whether workers measure real time: a round then ends when k usable replies are there, instead of waiting for
        all of them to compare the seconds that they report.
    **options : Options
        See :class:`echelon.server.options.Options`.
    """

    has_robust_rule = False  # it averages the workers that say they were fast
    needs_server = "the first replies are selected by the server"

    def __init__(self, keep: float = 0.75, *, wall_clock: bool = False, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        if not 0 < keep <= 1:
            raise ValueError(f"strategy.keep must lie in (0, 1]; got {keep}")
        if self.fold_late:
            raise ValueError(
                "work.fold_late must be false with strategy=over_selection, which drops late replies; got true"
            )
        self.keep = keep
        self.wall_clock = wall_clock

    def round_complete(self, received: Received) -> bool:
        """With a wall clock, return whether k usable replies have arrived."""
        return self.wall_clock and len(received.replies) >= self.awaited

    def filter_replies(self, received: Received, recipients: list[int]) -> Received:
        """Keep the first k replies; with fewer, all of them."""
        replies, k = received.replies, self.awaited
        if len(replies) < k:
            return received
        session = self.session
        models_sent = np.full(len(session.roster), self.models_sent(k))
        communication = communication_seconds(models_sent, session.layout.num_bytes, session.roster)
        arrival = {rank: reply.report.seconds + communication[rank] for rank, reply in replies.items()}
        first = sorted(replies, key=lambda rank: (arrival[rank], rank))[:k]
        kept = replace(received, replies={rank: replies[rank] for rank in sorted(first)})
        return replace(kept, dropped=kept.timed_out(recipients))

    @property
    def awaited(self) -> int:
        """The number k of replies that end a round."""
        return math.ceil(self.keep * len(self.roster) - 1e-9)
