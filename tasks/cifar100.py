"""CIFAR-100: 32x32 colour images, 100 fine classes, 50,000 + 10,000."""

from pathlib import Path

from .augment import crop_and_flip
from .base import Task
from .vision import find, image_task

_MEAN = (0.5071, 0.4865, 0.4409)
_STD = (0.2673, 0.2564, 0.2762)


def read(root: Path, download: bool) -> Task:
    """Read `<root>/cifar100.npz` or torchvision's `<root>/cifar-100-python`.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    arrays = find("cifar100", "CIFAR100", root, download)
    return image_task("cifar100", arrays, mean=_MEAN, std=_STD, augment=crop_and_flip)
