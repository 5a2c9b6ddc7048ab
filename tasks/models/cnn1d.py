"""A small convolutional network for signals; no normalisation layers, so that its whole state is averaged."""

from torch import nn

from ..base import Shape


def build(shape: Shape) -> nn.Module:
    """Return the network: 273,348 parameters for heartbeats of 128 samples and 4 classes."""
    channels, length = shape.input_shape
    return nn.Sequential(
        nn.Conv1d(channels, 32, 7, padding=3),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(64 * (length // 4), 128),
        nn.ReLU(),
        nn.Linear(128, shape.num_classes),
    )
