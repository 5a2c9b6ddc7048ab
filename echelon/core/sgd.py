"""Hyper-parameters of the workers' SGD."""

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class SGD:
    """SGD with momentum, weight decay and a step-wise schedule.

    Parameters
    ----------
    learning_rate : float
        Above 0.
    momentum : float
        In [0, 1). The buffer belongs to the worker's row: the server keeps it and sends it along. See
        ``Strategy.momentum_mixing`` for what else becomes of it.
    weight_decay : float
        At least 0.
    lr_milestones : tuple of int
        After each of these rounds the learning rate is multiplied by ``lr_gamma``.
    lr_gamma : float
        Above 0.
    """

    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    lr_milestones: tuple[int, ...] = ()
    lr_gamma: float = 0.1

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0; got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1); got {self.momentum}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0; got {self.weight_decay}")
        if not self.lr_gamma > 0:
            raise ValueError(f"lr_gamma must be above 0; got {self.lr_gamma}")

    def at(self, server_round: int) -> float:
        """Return the learning rate of a round (from 1)."""
        return float(self.learning_rate * self.factor(server_round))

    def factor(self, server_round: int) -> float:
        """Return the learning rate of a round (from 1) as a multiple of that of the first."""
        return float(self.lr_gamma ** bisect_right(sorted(self.lr_milestones), server_round - 1))
