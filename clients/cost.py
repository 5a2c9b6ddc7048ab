"""What the loss of a mini-batch takes."""

import pickle
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from echelon.algorithms.seeds import rng

from .data import batches, map_tensors
from .jobs import Job
from .randomness import seeded

if TYPE_CHECKING:
    from .worker import Worker

MOST_KEPT_BYTES = 1 << 28
"""How much may be kept for gradients at once, by all workers that are trained together."""


@dataclass(frozen=True)
class Cost:
    """What the loss of one mini-batch takes: bytes kept for its gradient, bytes read, and whether anything is drawn."""

    kept_bytes: int
    batch_bytes: int
    draws: bool


def measure(worker: "Worker", job: Job, size: int) -> Cost:
    """Compute the loss of a worker's first ``size`` samples, and count what that takes."""
    told = job.instructions
    worker.load(job)
    module = worker.model.module.train()
    kept: list[int] = []
    with seeded(0, worker.device):
        generator = partial(rng, told.seed, "augment", max(told.rank, 0), told.server_round)
        batch = next(batches(job.data, [job.indices[:size]], generator))
        before = _generators(worker.device)
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t)  # type: ignore[func-returns-value]
        with hooks:
            worker.objective.total(module, batch, size, worker.device)
        draws = before != _generators(worker.device)
    sizes: list[int] = []
    map_tensors(lambda value: sizes.append(value.nbytes if isinstance(value, Tensor) else 0), batch)
    return Cost(sum(kept), sum(sizes), draws)


def _generators(device: str) -> Any:
    """Return the states of the global generators, to be compared."""
    of_numpy = pickle.dumps(np.random.get_state())  # noqa: NPY002
    torchs = [torch.default_generator.get_state()]
    if device != "cpu":
        torchs.append(getattr(torch, device).get_rng_state())
    return random.getstate(), of_numpy, [bytes(state.numpy()) for state in torchs]
