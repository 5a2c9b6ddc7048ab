"""Two hidden layers of 200 units, for any input: the "2NN" of McMahan et al., AISTATS 2017."""

from math import prod

from torch import nn

from ..base import Shape


def build(shape: Shape) -> nn.Module:
    """Return the network: 199,210 parameters for 28x28 grey images and 10 classes."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape.input_shape), 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, shape.num_classes),
    )
