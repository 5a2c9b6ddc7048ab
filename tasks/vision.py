"""What the image sets share that torchvision can download."""

from pathlib import Path

import torch

from .base import Augment, DataNotFound, Scaling, Split, Task
from .sources import Arrays, npz_path, read_npz, read_torchvision


def find(name: str, dataset: str, root: Path, download: bool) -> Arrays:
    """Read `<root>/<name>.npz` (or `root`, if it names an .npz file), else what torchvision finds in `root`.

    Parameters
    ----------
    name, dataset : str
        Echelon's and torchvision's name.
    root : Path
        Where the data is.
    download : bool
        Whether torchvision may bring missing data to `root`.

    Raises
    ------
    DataNotFound
        If neither is there.
    """
    path = npz_path(root, name)
    if path.is_file():
        return read_npz(path)
    if path == root:
        raise DataNotFound(f"task.root: there is no file {root}; point task.root at a folder or file with {name} data")
    return read_torchvision(dataset, name, root, download)


def image_task(
    name: str, arrays: Arrays, *, mean: tuple[float, ...], std: tuple[float, ...], augment: Augment | None = None
) -> Task:
    """Make the task of uint8 images.

    Parameters
    ----------
    name : str
        Of the task.
    arrays : Arrays
        The images.
    mean, std : tuple of float
        Of the whole training set per channel, in [0, 1] units: the same whichever part of the data is there.
    augment : callable, optional
        The augmentation that suits the images.
    """
    scaling = Scaling(0, 255, torch.tensor(mean) * 255, torch.tensor(std) * 255)
    train, test = (Split(part.x, part.y, scaling, part.groups) for part in (arrays.train, arrays.test))
    return Task(name, train, test, arrays.classes, default_model="cnn", augment=augment)
