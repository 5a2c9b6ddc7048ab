"""Vectors that are used again: the pages of fresh memory cost more than a copy."""

import torch
from torch import Tensor


class Buffers:
    """A stock of float32 vectors of one length."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, like: Tensor) -> Tensor:
        """Return a vector of any content, as long as another one and on its device."""
        if self._free and self._free[-1].shape == like.shape:
            return self._free.pop()
        return torch.empty_like(like)

    def give(self, vectors: list[Tensor]) -> None:
        """Take vectors back that nobody uses any more."""
        self._free += vectors
