"""Common types of all tasks: in-memory splits, class names and normalisation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Augment = Callable[[Tensor, np.random.Generator], Tensor]


class DataNotFound(FileNotFoundError):  # noqa: N818 - the name states the fact
    """The data of a task is missing or incomplete; the message explains how to obtain it."""


class Shape(NamedTuple):
    """Input and output dimensions of a task.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of one sample: (channels, height, width) for images, (channels, length) for signals.
    num_classes : int
        At least 2.
    """

    input_shape: tuple[int, ...]
    num_classes: int


@dataclass(frozen=True, eq=False)
class Scaling:
    """Scaling of stored values: (x - mean) / std for networks, (x - low) / (high - low) for partitioners.

    Attributes
    ----------
    low, high : float
        Range of the stored values.
    mean, std : Tensor
        (channels,) float32, in the units of the stored values, of the training set.
    """

    low: float
    high: float
    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, x: Tensor, low: float, high: float) -> "Scaling":
        """Compute mean and standard deviation per channel of stored samples (n, ..., channels)."""
        total, squares = (torch.zeros(x.shape[-1], dtype=torch.float64) for _ in range(2))
        for chunk in torch.split(x, 1024):
            values = chunk.double().flatten(0, -2)
            total += values.sum(0)
            squares += values.square().sum(0)
        count = x[..., 0].numel()
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        # A constant channel is mapped to 0 instead of dividing by 0.
        return cls(low, high, mean.float(), torch.where(std > 0, std, 1.0).float())


@dataclass(frozen=True, eq=False)
class Split:
    """Samples in memory in their stored type; only mini-batches are converted to normalised floats.

    Attributes
    ----------
    x : Tensor
        (n, height, width, channels) uint8, or (n, length, channels) float32.
    y : Tensor
        (n,) int64 class numbers.
    scaling : Scaling
        Scaling of the training set, for both splits.
    groups : Tensor or None
        (n,) int64, the group of each sample (such as a patient record).
    """

    x: Tensor
    y: Tensor
    scaling: Scaling
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one network input, channels first."""
        return (self.x.shape[-1], *self.x.shape[1:-1])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised samples and labels.

        Parameters
        ----------
        indices : Tensor
            (b,) int64 positions in this split.

        Returns
        -------
        x : Tensor
            (b, *input_shape) float32, each channel normalised by the training set's mean and deviation.
        y : Tensor
            (b,) int64.
        """
        x = self.x[indices].float().sub(self.scaling.mean).div_(self.scaling.std)
        return x.movedim(-1, 1).contiguous(), self.y[indices]

    def features(self) -> NDArray[np.float32]:
        """Return the samples as features for partitioners: (n, d) float32 in [0, 1], 4 n d bytes."""
        low, high = self.scaling.low, self.scaling.high
        x = self.x.to(torch.float32, copy=True).sub_(low).div_(high - low).clamp_(0, 1)
        features: NDArray[np.float32] = x.reshape(len(self), -1).numpy()
        return features

    def subset(self, indices: Tensor) -> "Split":
        """Return a copy of the samples at (b,) int64 positions."""
        groups = None if self.groups is None else self.groups[indices]
        return Split(self.x[indices], self.y[indices], self.scaling, groups)


@dataclass(frozen=True, eq=False)
class Task:
    """A data set.

    Attributes
    ----------
    name : str
        As in `task=...`.
    train, test : Split
        The published split.
    class_names : tuple of str
        In the order of the class numbers.
    default_model : str
        A suitable model that trains on a laptop.
    augment : callable or None
        `augment(x, generator) -> x` for normalised training mini-batches; None for no augmentation.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    default_model: str
    augment: Augment | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one network input, channels first."""
        return self.train.input_shape

    @property
    def groups(self) -> Tensor | None:
        """Group of every training sample, (n,) int64, or None."""
        return self.train.groups
