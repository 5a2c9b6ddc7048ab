"""CIFAR-10: 32x32 colour images, 10 classes, 50,000 + 10,000."""

from pathlib import Path

from .augment import crop_and_flip
from .base import Task
from .vision import find, image_task

_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)


def read(root: Path, download: bool) -> Task:
    """Read `<root>/cifar10.npz` or torchvision's `<root>/cifar-10-batches-py`.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    arrays = find("cifar10", "CIFAR10", root, download)
    return image_task("cifar10", arrays, mean=_MEAN, std=_STD, augment=crop_and_flip)
