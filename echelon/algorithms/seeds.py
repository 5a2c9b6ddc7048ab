"""Random streams: all random numbers of a run derive from one root seed."""

from typing import Literal, get_args

import numpy as np

# The position in this list identifies a stream: append new purposes, never reorder.
Purpose = Literal[
    "partition",
    "order",
    "jitter",
    "churn",
    "matching",
    "rotation",
    "model",
    "augment",
    "features",
    "selection",
    "dropout",
    "leaders",
    "evaluation",
]


_PLACES: dict[str, int] = {purpose: place for place, purpose in enumerate(get_args(Purpose))}


def rng(seed: int, purpose: Purpose, *keys: int) -> np.random.Generator:
    """Return the generator of one purpose, independent of every other purpose and key.

    Parameters
    ----------
    seed : int
        The run's root seed, at least 0.
    purpose : Purpose
        Purpose of the numbers.
    *keys : int
        Further coordinates, such as (rank, round), each at least 0.

    Returns
    -------
    numpy.random.Generator
        The same stream for the same arguments, on every machine and in every process.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_PLACES[purpose], *keys)))
