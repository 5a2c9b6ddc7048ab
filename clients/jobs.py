"""What a train message asks of a worker."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict

from echelon.protocol.messages import SHARD, TrainInstructions, as_ndarray, record

from .data import IndexedData


@dataclass(frozen=True)
class Job:
    """A round of one worker: what its message asks for.

    ``indices`` are the samples of the round in the order of training, of a shard with ``shard_size``; ``simulated``
    means that a simulated device, not real time, measures the round. ``bf16`` means that the content came in bfloat16:
    differences to it go back.
    """

    rank: int
    content: RecordDict
    instructions: TrainInstructions
    data: IndexedData
    indices: torch.Tensor
    shard_size: int
    simulated: bool
    bf16: bool


def shard_of(content: RecordDict, pool: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the samples that the server assigned to this worker; by default all of its data."""
    if SHARD not in content:
        return np.arange(pool)
    indices = as_ndarray(record(content, SHARD, ArrayRecord)["indices"])
    if indices.dtype != np.int64 or indices.ndim != 1 or not indices.size:
        raise ValueError(f"the shard must be a non-empty list of int64 indices; got {indices.dtype} {indices.shape}")
    outside = indices[(indices < 0) | (indices >= pool)]
    if outside.size:
        raise ValueError(f"shard indices must lie in 0..{pool - 1}, the range of this worker's data; got {outside[0]}")
    return indices
