import subprocess
import sys
from itertools import combinations

import numpy as np

from echelon.algorithms.seeds import rng


def test_same_arguments_same_stream() -> None:
    np.testing.assert_array_equal(rng(3, "order", 1, 2).random(5), rng(3, "order", 1, 2).random(5))


def test_every_argument_counts() -> None:
    streams = [
        rng(3, "order", 1, 2),
        rng(4, "order", 1, 2),
        rng(3, "jitter", 1, 2),
        rng(3, "order", 2, 1),
        rng(3, "order", 1),
        rng(3, "order"),
    ]
    draws = [stream.random(4) for stream in streams]
    assert all(not np.array_equal(a, b) for a, b in combinations(draws, 2))


def test_another_process_draws_the_same() -> None:
    code = "from echelon.algorithms.seeds import rng; print(rng(7, 'churn', 1, 5).integers(2**62))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == rng(7, "churn", 1, 5).integers(2**62)


def test_streams_keep_their_place() -> None:
    """New purposes are appended: the streams of finished runs must not change."""
    assert rng(0, "partition").integers(2**62) == 4348531928880111035
    assert rng(0, "dropout", 1, 2).integers(2**62) == 1353855330318215371
