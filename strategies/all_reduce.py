"""All-reduce: one model, the average over all workers (synchronous SGD; FedAvg where shards or steps differ)."""

from collections.abc import Mapping

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord

from echelon.algorithms.mixing import mix
from echelon.server.layout import Row
from echelon.server.replies import Reply
from echelon.server.strategy import Floats, Ints, Mixing, PerWorkerStrategy


class AllReduce(PerWorkerStrategy):
    """Average all present workers' models by the samples that they hold; everybody goes on from the average.

    With equal shards W = J/N. Absent workers get the average too: there is one model. With more than one local step,
    updates from unequal numbers of steps are normalised as in FedNova (Wang et al., NeurIPS 2020):
    x+ = x + tau_eff sum_i p_i (y_i - x) / a_i, a_i the steps that worker i took (a part of a step counts as such) and
    tau_eff = sum_i p_i a_i.

    Parameters
    ----------
    **options : Options
        See :class:`echelon.server.options.Options`.
    """

    def adopt(self, arrays: ArrayRecord) -> None:
        """Let everybody go on from the given model, which may be the average with noise added to it."""
        mixed = slice(self.layout.num_parameters)
        self.state.rows[:, mixed] = self.layout.row(arrays)[mixed]

    def observe_losses(self, replies: Mapping[int, Reply]) -> None:
        """Note losses, and the weights of this round's average: samples held, among those present."""
        super().observe_losses(replies)
        held = np.array([reply.report.num_examples for reply in replies.values()], dtype=np.float64)
        self.weights = held / max(held.sum(), 1.0)

    def factors(self, replies: Mapping[int, Reply]) -> Floats:
        """Return the work policy's factors, with FedNova's normalisation of unequal numbers of steps."""
        factors = super().factors(replies)
        samples = np.array([reply.report.samples for reply in replies.values()], dtype=np.float64)
        if self.work.local_steps == 1 or not samples.any() or np.ptp(factors) > 0:
            return factors
        steps = samples / self.orders.batch_sizes[list(replies)]
        factors *= np.divide(self.weights @ steps, steps, out=np.zeros_like(steps), where=steps > 0)
        return factors

    def round_mixing(self, server_round: int, present: Ints) -> Mixing:
        """Return the matrix of which every row holds the weights; as a ring, all-reduce sends 2(n-1)/n models each."""
        num_workers = len(self.roster)
        if not len(present):
            return Mixing(np.eye(num_workers), nx.Graph(), np.zeros(num_workers))
        matrix = np.zeros((num_workers, num_workers))
        matrix[:, present] = self.weights
        graph = nx.complete_graph(present.tolist())
        models_sent = np.zeros(num_workers)
        models_sent[present] = models_in_ring(len(present))
        return Mixing(matrix, graph, models_sent)

    def combine(self, updated: Mapping[int, Row], mixing: Mixing) -> float:
        """Average rows, and momentum with them: synchronous SGD has one momentum buffer."""
        drift = super().combine(updated, mixing)
        mixed = slice(self.layout.num_parameters)
        self.state.rows[:, mixed] = self.state.rows[0, mixed]
        if self.state.momentum is not None:
            mix(mixing.matrix, self.state.momentum)
        return drift


def models_in_ring(num_workers: int) -> float:
    """Return the models that each worker sends in an all-reduce around a ring, 2 (n - 1) / n."""
    return 2 * (num_workers - 1) / num_workers
