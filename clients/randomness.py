"""Random numbers of local training: a model's dropout and a data set's augmentation draw from global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator

_OF_NUMPY = np.random.MT19937(0)


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python in the body, and restore them afterwards.

    In place of numpy's generator another one is used: to read and to set its state takes 90 us. A second normal number
    that numpy may have at hand for its next call is not restored.

    Parameters
    ----------
    seed : int
        In [0, 2**31).
    device : str
        Only the generators in use are touched: forking those of CUDA would initialise CUDA in a CPU-only process.
    """
    of_numpy, of_python = get_bit_generator(), random.getstate()
    forked = device in ("cuda", "xpu")
    with torch.random.fork_rng([device] if forked else [], device_type=device if forked else "cuda"):
        _seed_torch(seed, device)
        set_bit_generator(_OF_NUMPY)
        np.random.seed(seed)  # noqa: NPY002 - what users' data sets draw from
        random.seed(seed)
        try:
            yield
        finally:
            set_bit_generator(of_numpy)
            random.setstate(of_python)


def _seed_torch(seed: int, device: str) -> None:
    """Seed what ``torch.manual_seed`` does, but for devices that are not in use: each costs a look for it."""
    torch.default_generator.manual_seed(seed)
    if device != "cpu":
        getattr(torch, device).manual_seed(seed)
