import numpy as np

from partitioners import IidPartitioner


def test_every_sample_is_equally_likely_to_go_to_a_worker() -> None:
    rng = np.random.default_rng(0)

    counts = sum(np.bincount(IidPartitioner()(np.arange(8), (1, 3), rng)[0], minlength=8) for _ in range(1500))

    assert np.abs(np.asarray(counts) / 1500 - 2 / 8).max() < 0.05
