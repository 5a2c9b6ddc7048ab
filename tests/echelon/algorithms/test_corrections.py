"""Vectors kept for each worker on unlike shards, by hand; of numpy and of torch alike."""

import numpy as np
import pytest
import torch

from echelon.algorithms.corrections import quasi_global

M, START, MIXED = [1.0, -2.0, 0.0], [3.0, 0.0, 1.0], [2.0, 1.0, 1.0]


class TestQuasiGlobal:
    def test_by_hand(self) -> None:
        """0.5 m + 0.5 (start - mixed) / 0.1."""
        found = quasi_global(np.array(M), np.array(START), np.array(MIXED), momentum=0.5, length=0.1)
        np.testing.assert_allclose(found, [0.5 + 5, -1 - 5, 0])

    def test_torch_and_types(self) -> None:
        found = quasi_global(torch.tensor(M), torch.tensor(START), torch.tensor(MIXED), momentum=0.5, length=0.1)
        assert found.tolist() == pytest.approx([5.5, -6, 0])
        rows = np.array([M, M], dtype=np.float32)
        assert quasi_global(rows, rows, rows, momentum=0.5, length=0.1).dtype == np.float32

    def test_without_momentum_it_is_the_mean_direction_of_the_round(self) -> None:
        found = quasi_global(np.array(M), np.array(START), np.array(MIXED), momentum=0.0, length=2.0)
        np.testing.assert_allclose(found, (np.array(START) - MIXED) / 2)
