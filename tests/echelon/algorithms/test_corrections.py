"""Vectors kept for each worker on unlike shards, by hand; of numpy and of torch alike."""

import numpy as np
import pytest
import torch

from echelon.algorithms.corrections import mean_gradient, quasi_global, tracked
from echelon.algorithms.mixing import metropolis
from echelon.algorithms.topology import build

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


class TestMeanGradient:
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_is_the_mean_of_the_directions(self, momentum: float) -> None:
        directions = np.random.default_rng(0).normal(size=(4, 3))
        x, v = np.ones(3), np.full(3, 0.5)
        start, before = x, v
        for direction in directions:
            v = momentum * v + direction
            x = x - 0.1 * v
        found = mean_gradient(start, x, learning_rate=0.1, steps=4, momentum=momentum, before=before, after=v)
        np.testing.assert_allclose(found, directions.mean(axis=0))

    def test_without_buffers(self) -> None:
        assert mean_gradient(torch.tensor([3.0]), torch.tensor([2.0]), learning_rate=0.1, steps=0.5).item() == 20.0


class TestTracked:
    def test_by_hand(self) -> None:
        assert tracked(np.array([1.0]), np.array([5.0]), np.array([3.0])).tolist() == [-1.0]

    @pytest.mark.parametrize("exact", [True, False])
    def test_reaches_the_optimum_of_unlike_quadratics(self, exact: bool) -> None:
        """Ring of 8, F = 5, mu = 0.9: with the directions' mean the optimum is reached, with the displacement not."""
        draw = np.random.default_rng(3)
        curvatures, centres = draw.uniform(0.5, 2.0, size=(8, 1)), draw.normal(size=(8, 1)) * 5
        optimum = (curvatures * centres).sum() / curvatures.sum()
        matrix = metropolis(build("ring", 8))
        x, v, c = (np.zeros((8, 1)) for _ in range(3))
        for _ in range(3000):
            start, before = x, v
            for _ in range(5):
                v = 0.9 * v + curvatures * (x - centres) + c
                x = x - 0.005 * v
            buffers = {"momentum": 0.9, "before": before, "after": v} if exact else {}
            z = mean_gradient(start, x, learning_rate=0.005, steps=5, **buffers)  # type: ignore[arg-type]
            c, x = tracked(c, z, matrix @ z), matrix @ x
            if not exact and np.abs(x).max() > 1e6:
                return
        assert exact
        assert np.abs(x - optimum).max() < 1e-9
