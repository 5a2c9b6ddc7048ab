"""All-reduce: one model, the average over all workers (synchronous SGD; FedAvg where shards or steps differ)."""

import numpy as np
from flwr.app import ArrayRecord

from echelon.algorithms.robust import assumed_liars
from echelon.core.mixing import Complete, Floats, Mean, Mixing, TrimmedMean
from echelon.core.strategy import MomentumMixing, RoundNumbers
from echelon.server.strategy import FlowerStrategy


class AllReduce(FlowerStrategy):
    """Average all present workers' models by the samples that they hold; every worker continues from the average.

    With equal shards W = J/N. Absent workers get the average too: there is one model, and one momentum buffer. With
    more than one local step, updates from unequal numbers of steps are normalised as in FedNova (Wang et al., NeurIPS
    2020): x+ = x + tau_eff sum_i p_i (y_i - x) / a_i, a_i the steps that worker i took (a part of a step counts as
    such) and tau_eff = sum_i p_i a_i.

    With ``robust``, the average is the coordinate-wise trimmed mean (Yin et al., ICML 2018), in which all workers count
    alike.

    Parameters
    ----------
    **options : Options
        See :class:`echelon.server.options.Options`.
    """

    momentum_mixing: MomentumMixing = "mixed"
    momentum_choices = ("mixed", "quasi_global")  # one model: no buffer is a worker's own
    counts_absent = True
    has_robust_rule = True

    def mixing(self, numbers: RoundNumbers) -> Mixing:
        """Return the mean weighted by samples; as a ring, all-reduce sends 2(n-1)/n models each."""
        num_workers, present = self.num_workers, numbers.present
        graph = Complete(present)
        if not len(present):
            return Mixing(np.eye(num_workers), graph, np.zeros(num_workers))
        models_sent = np.zeros(num_workers)
        models_sent[present] = self.models_sent(len(present))
        if self.robust:
            return Mixing(TrimmedMean(present, assumed_liars(len(present))), graph, models_sent)
        return Mixing(Mean(_weights(numbers)), graph, models_sent)

    def update_scales(self, numbers: RoundNumbers) -> Floats:
        """Return the work policy's factors, with FedNova's normalisation of unequal numbers of steps on top.

        With ``estimator=memory``, all workers take all their steps.
        """
        factors = super().update_scales(numbers)
        present = numbers.present
        samples = numbers.samples[present].astype(np.float64)
        steps = samples / numbers.batch_sizes[present]
        if self.work.local_steps == 1 or self.remembers or not samples.any() or not np.ptp(steps):
            return factors
        weights = _weights(numbers)[present]
        factors *= np.divide(weights @ steps, steps, out=np.zeros_like(steps), where=steps > 0)
        return factors

    def models_sent(self, num_workers: int) -> float:
        """Return the models that each worker sends in a round around a ring; mean gradients are as large as models."""
        return models_in_ring(num_workers) * (2 if self.correction == "tracking" else 1)

    def load_global(self, arrays: ArrayRecord) -> None:
        """Let every worker continue from the given model, which may be the average with noise added to it."""
        session = self.session
        session.state.rows[:, session.mixed] = session.layout.row(arrays)[session.mixed]


def models_in_ring(num_workers: int) -> float:
    """Return the models that each worker sends in an all-reduce around a ring, 2 (n - 1) / n."""
    return 2 * (num_workers - 1) / num_workers


def _weights(numbers: RoundNumbers) -> Floats:
    """Return the share of each worker in the samples held by those present, shape (N,)."""
    held = numbers.shard_sizes.astype(np.float64)
    if not held.any():  # nobody present holds a sample: the average must not vanish
        held[numbers.present] = 1.0
    shares: Floats = held / max(held.sum(), 1.0)
    return shares
