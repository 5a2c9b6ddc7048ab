"""Common functions of image data sets that torchvision can download."""

from pathlib import Path

import torch

from .base import Augment, DataNotFound, Scaling, Split, Task
from .sources import Arrays, npz_path, read_npz, read_torchvision


def find(name: str, dataset: str, root: Path, download: bool) -> Arrays:
    """Read `<root>/<name>.npz` (or `root`, if it names an .npz file), else torchvision's files in `root`.

    Parameters
    ----------
    name, dataset : str
        Echelon's and torchvision's name.
    root : Path
        Location of the data.
    download : bool
        Whether torchvision may download missing data to `root`.

    Raises
    ------
    DataNotFound
        If neither exists.
    """
    path = npz_path(root, name)
    if path.is_file():
        return read_npz(path)
    if path == root:
        raise DataNotFound(f"task.root: no such file: {root}; point task.root at a folder or file with {name} data")
    return read_torchvision(dataset, name, root, download)


def image_task(
    name: str, arrays: Arrays, *, mean: tuple[float, ...], std: tuple[float, ...], augment: Augment | None = None
) -> Task:
    """Create a task of uint8 images.

    Parameters
    ----------
    name : str
        Name of the task.
    arrays : Arrays
        The images.
    mean, std : tuple of float
        Per channel of the complete training set, in [0, 1] units, even if only a part of the data is available.
    augment : callable, optional
        Augmentation of training mini-batches.
    """
    scaling = Scaling(0, 255, torch.tensor(mean) * 255, torch.tensor(std) * 255)
    train, test = (Split(part.x, part.y, scaling, part.groups) for part in (arrays.train, arrays.test))
    return Task(name, train, test, arrays.classes, default_model="cnn", augment=augment)
