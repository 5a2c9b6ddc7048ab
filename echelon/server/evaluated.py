"""Which workers' models an evaluation on the server covers, beside the consensus model."""

from dataclasses import dataclass
from logging import INFO
from typing import Literal

import numpy as np
from flwr.supercore import log

from echelon.algorithms.seeds import rng
from echelon.core.tally import Tally

Choice = Literal["all", "sample", "best_worst", "none"]


@dataclass(frozen=True)
class EvaluatedWorkers:
    """A choice of the workers whose models are evaluated; the same in every run with the same seed.

    A training sample costs a forward pass and a backward pass of twice that; so an evaluation of as many samples as
    were trained on since the one before costs a third of the training.

    Parameters
    ----------
    choice : {"all", "sample", "best_worst", "none"}
        ``sample``: as many workers, drawn afresh, as fit into that third beside the consensus model, which may be all
        or none; all of them in the last round. ``best_worst``: those with the lowest and the highest training loss.
    samples : int
        Samples on which a model is evaluated, at least 1.
    eval_every, num_rounds : int
        Rounds between evaluations, and of the run.
    seed : int
        Root of the draws.

    Examples
    --------
    >>> from echelon.server.evaluated import EvaluatedWorkers
    >>> EvaluatedWorkers("sample", samples=1000, eval_every=10, num_rounds=100).affordable(samples_per_round=512.0)
    4
    """

    choice: Choice
    samples: int
    eval_every: int
    num_rounds: int
    seed: int = 0

    def ranks(self, state: Tally) -> list[int]:
        """Return the ranks, ascending, given the state after the round that is evaluated; log how many they are."""
        chosen = self._chosen(state)
        if len(chosen) < len(state.losses):
            log(
                INFO,
                "Round %s: the models of %s of %s workers are evaluated (evaluate_workers=%s; all with =all)",
                *(state.round, len(chosen), len(state.losses), self.choice),
            )
        return chosen

    def affordable(self, samples_per_round: float) -> int:
        """Return how many workers' models cost, with the consensus model, at most a third of the training."""
        return max(0, int(samples_per_round * self.eval_every / self.samples) - 1)

    def _chosen(self, state: Tally) -> list[int]:
        everyone = list(range(len(state.losses)))
        if self.choice == "best_worst":
            known = np.flatnonzero(np.isfinite(state.losses))
            losses = state.losses[known]
            return sorted({int(known[losses.argmin()]), int(known[losses.argmax()])}) if known.size else []
        if self.choice != "sample":
            return everyone if self.choice == "all" else []
        count = self.affordable(state.samples / max(state.round, 1))
        if count >= len(everyone) or state.round >= self.num_rounds:
            return everyone
        drawn = rng(self.seed, "evaluation", state.round).choice(len(everyone), count, replace=False)
        return [int(rank) for rank in np.sort(drawn)]
