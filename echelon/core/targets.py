"""How much each worker is to compute in a round, on either host."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from echelon.core.mixing import Floats, Ints
from echelon.core.tally import Tally
from echelon.core.work import WorkPolicy, batch_sizes


@dataclass(frozen=True)
class RoundTargets:
    """What the workers are to compute in one round.

    Attributes
    ----------
    round : int
        From 1.
    batch_sizes, target_samples : int64 ndarray, shape (N,)
        Samples of a full batch, and of the round.
    budget_seconds : float
        Computing time that the round allows, as predicted from the workers' speeds; infinite for blocking work.
    """

    round: int
    batch_sizes: Ints
    target_samples: Ints
    budget_seconds: float

    @classmethod
    def make(
        cls,
        round_number: int,
        work: WorkPolicy,
        tally: Tally,
        batch_ratios: Floats | None = None,
        recipients: Iterable[int] | None = None,
        spare: int = 0,
    ) -> Self:
        """Return the work policy's targets.

        Only the recipients (by default all workers) decide the budget, and of these not the ``spare`` fastest: a false
        speed of one of them cannot shorten the round. Batches are in proportion to ``batch_ratios``, if given.
        """
        sizes = batch_sizes(work.batch_size, len(tally.losses), batch_ratios)
        target = work.target_samples(sizes, tally.left_in_batch)
        seconds = tally.seconds_per_minibatch
        if recipients is not None:
            seconds = np.where(np.isin(np.arange(len(seconds)), list(recipients)), seconds, np.nan)
        if spare:
            order = np.argsort(seconds * target, kind="stable")  # NaN last
            known = int(np.isfinite(seconds).sum())
            seconds = seconds.copy()
            seconds[order[: max(min(spare, known - 1), 0)]] = np.nan
        return cls(round_number, sizes, target, work.budget(seconds, target))

    def target_minibatches(self, rank: int, minibatch_size: int) -> int:
        """Return the mini-batches of a worker's target: those of its whole batches, or of what is left of one."""
        per_batch = -(-int(self.batch_sizes[rank]) // minibatch_size)
        full, left = divmod(int(self.target_samples[rank]), int(self.batch_sizes[rank]))
        return full * per_batch - (-left // minibatch_size)
