"""How many samples of a batch a worker computes at once: several mini-batches, where no budget can cut between them.

The gradient of a step is a sum over samples, whatever mini-batches it is accumulated from, unless the loss or the model
compares samples of a mini-batch, as BatchNorm does. Time and counts are those of the mini-batches all the same.
"""

import math
from functools import partial
from logging import INFO
from typing import TYPE_CHECKING

import numpy as np
import torch
from flwr.supercore import log
from torch import Tensor

from .cost import MOST_KEPT_BYTES, Cost, measure
from .data import batches
from .jobs import Job
from .randomness import seeded
from .training import minibatches_of

if TYPE_CHECKING:
    from .worker import Worker

# Sums in another order differ by 1e-6 of the gradient, those of other losses by much more.
_TOLERANCE = 1e-4


class Merging:
    """Decides how many samples this process's worker computes at once, by the model, the loss and the data alone.

    Parameters
    ----------
    worker : Worker
        Of this process.
    wanted : bool
        False computes every mini-batch by itself.
    """

    def __init__(self, worker: "Worker", wanted: bool) -> None:
        self._worker = worker
        self._costs: dict[int, Cost] = {}
        self._allowed = None if wanted else False

    def most_samples(self, job: Job, workers: int = 1) -> int:
        """Return how many samples to compute at once where ``workers`` do so together; 0 for a mini-batch each."""
        told, sizes = job.instructions, minibatches_of(job.instructions)[0]
        cut = not job.simulated or math.isfinite(told.budget_seconds)
        if cut or len(sizes) < 2 or self._allowed is False:
            return 0
        try:
            cost = self.cost(job, sizes[0])
            if self._allowed is None:
                reason = self._refusal(job, cost, sizes)
                self._allowed = not reason
                if reason:
                    log(INFO, "Mini-batches are computed one by one: %s", reason)
        except Exception:  # of the user's data or functions: training raises it, and names the worker
            return 0
        each = max((cost.kept_bytes + cost.batch_bytes) / sizes[0], 1)
        return int(MOST_KEPT_BYTES / workers / each) if self._allowed else 0

    def cost(self, job: Job, size: int) -> Cost:
        """Return what the loss of a mini-batch of this size takes."""
        if size not in self._costs:
            self._costs[size] = measure(self._worker, job, size)
        return self._costs[size]

    def _refusal(self, job: Job, cost: Cost, sizes: list[int]) -> str:
        """Return why several mini-batches are not the same as one, if they are not."""
        if buffer := next((name for name, _ in self._worker.model.module.named_buffers()), None):
            return f"the model has buffers, which a mini-batch may change: {buffer}"
        if getattr(job.data, "pure_source", None) is None:
            return "their samples are augmented, or do not lie in memory as tensors"
        if cost.draws:
            return "the model or the loss draws random numbers"
        self._worker.load(job)
        apart, one = self._gradient(job, sizes[:2]), self._gradient(job, [sum(sizes[:2])])
        if torch.linalg.vector_norm(apart - one) > _TOLERANCE * torch.linalg.vector_norm(apart):
            return "the gradient of two is not the sum of theirs: the model or the loss compares samples"
        return ""

    def _gradient(self, job: Job, sizes: list[int]) -> Tensor:
        worker = self._worker
        model = worker.model
        model.module.train()
        model.gradients.zero_()
        pieces = torch.split(job.indices[: sum(sizes)], sizes)
        with seeded(0, worker.device):
            for size, batch in zip(sizes, batches(job.data, pieces, partial(np.random.default_rng, 0)), strict=True):
                torch.autograd.backward(worker.objective.total(model.module, batch, size, worker.device))
        return model.gradients.clone()
