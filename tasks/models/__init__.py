"""Models for small inputs, one file each; `build_model` creates them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from echelon.algorithms.seeds import rng

from ..base import Shape, Task
from . import cnn, cnn1d, mlp, resnet18, resnet50, vgg16, wrn28_10


class Row(NamedTuple):
    """Builder and supported inputs of a model.

    Attributes
    ----------
    build : callable
        `build(shape) -> nn.Module`.
    dimensions : int or None
        Length of supported input shapes: 3 for images, 2 for signals, None for any.
    min_side : int
        Minimum height and width, or length.
    """

    build: Callable[[Shape], nn.Module]
    dimensions: int | None = None
    min_side: int = 1

    def fits(self, input_shape: tuple[int, ...]) -> bool:
        """Return whether the model supports inputs of this shape."""
        return self.dimensions in (None, len(input_shape)) and min(input_shape[1:]) >= self.min_side


MODELS: dict[str, Row] = {
    "mlp": Row(mlp.build),
    "cnn": Row(cnn.build, dimensions=3, min_side=4),
    "cnn1d": Row(cnn1d.build, dimensions=2, min_side=4),
    "resnet18": Row(resnet18.build, dimensions=3, min_side=8),
    "resnet50": Row(resnet50.build, dimensions=3, min_side=8),
    "wrn28_10": Row(wrn28_10.build, dimensions=3, min_side=8),
    "vgg16": Row(vgg16.build, dimensions=3, min_side=32),
}


def build_model(name: str, task: Task | Shape, *, seed: int = 0) -> nn.Module:
    """Build a model on the CPU with reproducible initial weights, without changing the global random state.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    task : Task or Shape
        Input and output dimensions.
    seed : int
        The run's root seed.

    Raises
    ------
    ValueError
        If the name is unknown or the model does not support the input.
    """
    if name not in MODELS or not MODELS[name].fits(task.input_shape):
        allowed = ", ".join(key for key, row in MODELS.items() if row.fits(task.input_shape))
        raise ValueError(f"model must be one of {allowed} for inputs of shape {task.input_shape}; got {name}")
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed every accelerator, which fork_rng would not restore.
        torch.default_generator.manual_seed(int(rng(seed, "model").integers(2**63)))
        return MODELS[name].build(Shape(task.input_shape, task.num_classes))
