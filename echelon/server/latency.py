"""How long replies take beyond computing, and the grace that a round therefore allows."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import Message, MessageType, MetricRecord

from echelon.protocol.messages import METRICS
from echelon.server.exchange import Exchange
from echelon.server.nodes import Roster

# A round waits for three quarters of the workers: a few bad links, or workers that hold their replies back, do not
# prolong it for all.
_COVERED = 0.75
_MARGIN = 1.5
_DECAY = 0.5
# One outlier prolongs the next round three-fold at most; a latency that stays is reached in a few rounds.
_LARGEST_STEP = 2.0


class Latencies:
    """Running estimates, by rank, of the seconds from a message to its reply less those of computing.

    An estimate follows a longer latency at once and a shorter one by halves.

    Parameters
    ----------
    num_workers : int
        N.

    Examples
    --------
    >>> from echelon.server.latency import Latencies
    >>> latencies = Latencies(2)
    >>> latencies.observe(0, 40.0, grace=30.0)
    >>> latencies.grace(30.0)
    60.0
    """

    def __init__(self, num_workers: int) -> None:
        self.seconds = np.full(num_workers, np.nan)

    def observe(self, rank: int, seconds: float, grace: float) -> None:
        """Take note of a worker's latency in a round that allowed ``grace`` seconds."""
        if math.isfinite(grace) and grace > 0:
            seconds = min(seconds, _LARGEST_STEP * grace)
        before = self.seconds[rank]
        decayed = 0.0 if np.isnan(before) else before + _DECAY * (seconds - before)
        self.seconds[rank] = max(seconds, decayed)

    def grace(self, least: float) -> float:
        """Return the grace in seconds that would do for three quarters of the workers, at least ``least``."""
        known = np.sort(self.seconds[~np.isnan(self.seconds)])
        if not len(known):
            return least
        return max(least, _MARGIN * float(known[math.ceil(_COVERED * len(known)) - 1]))

    def watch(self, replies: Iterable[Message], exchange: Exchange, roster: Roster, grace: float) -> Iterator[Message]:
        """Yield the replies of a round, late ones too, and observe their latencies: the server's time, less computing.

        Errors say nothing: Flower itself sends them for a node that is gone.
        """
        for reply in replies:
            rank = roster.rank_of(exchange.node_of(reply))
            if rank is not None and exchange.type_of(reply) == MessageType.TRAIN and reply.has_content():
                self.observe(rank, max(exchange.seconds_of(reply) - computing_seconds(reply), 0.0), grace)
            yield reply


def computing_seconds(reply: Message) -> float:
    """Return the seconds of computing that a reply reports; 0 where it reports none that can be true."""
    metrics = reply.content.get(METRICS)
    seconds = metrics.get("seconds") if isinstance(metrics, MetricRecord) else None
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < math.inf else 0.0
