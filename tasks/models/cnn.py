"""A small convolutional network for small images; no normalisation layers, so that its whole state is averaged."""

from torch import nn

from ..base import Shape


def build(shape: Shape) -> nn.Module:
    """Return the network: 53,002 parameters for 8x8 grey, 545,098 for 32x32 colour images and 10 classes."""
    channels, height, width = shape.input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, shape.num_classes),
    )
