"""Random numbers of local training: a model's dropout and a data set's augmentation draw from global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python in the body, and restore them afterwards.

    Parameters
    ----------
    seed : int
        In [0, 2**31).
    device : str
        Only the generators in use are touched: forking those of CUDA would initialise CUDA in a CPU-only process.
    """
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002 - what users' data sets draw from
    forked = device in ("cuda", "xpu")
    with torch.random.fork_rng([device] if forked else [], device_type=device if forked else "cuda"):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)
