"""Sources of arrays: an .npz file (any task), or torchvision's layout (tasks that torchvision supports)."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.core import npz

from .base import DataNotFound

AnyArray = NDArray[Any]

_KEYS = ("x_train", "y_train", "x_test", "y_test", "classes")
_OPTIONAL = ("record_train", "record_test")
_MAX_CLASSES = 1 << 16  # a name takes up to 60 times the memory of its bytes in the file


class Samples(NamedTuple):
    """One split in its stored type, channels last: x (n, ..., channels), y (n,) int64, groups (n,) int64 or None."""

    x: Tensor
    y: Tensor
    groups: Tensor | None = None


class Arrays(NamedTuple):
    """A complete data set in its stored type."""

    train: Samples
    test: Samples
    classes: tuple[str, ...]


def npz_path(root: Path, name: str) -> Path:
    """Return `root` itself if it names an .npz file, else `<root>/<name>.npz`."""
    return root if root.suffix == ".npz" else root / f"{name}.npz"


def read_npz(path: Path) -> Arrays:
    """Read and validate an .npz file.

    It contains `x_train`, `y_train`, `x_test`, `y_test`, `classes` and optionally `record_train` and `record_test`: x
    is (n, h, w) or (n, h, w, c) uint8 for images, (n, l) floating point for signals; y and record are (n,) integers.
    Other arrays in the file are not read.

    Raises
    ------
    ValueError
        If the content is invalid, with one line that names the file and the array.
    """
    _require(zipfile.is_zipfile(path), path, "it must be a complete .npz file", "a damaged file or another format")
    try:
        arrays = npz.read(path, (*_KEYS, *_OPTIONAL))
    except (ValueError, OSError) as error:
        raise ValueError(f"task.root: {path} cannot be read: {error}") from error
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise ValueError(f"task.root: {path} must contain the arrays {', '.join(_KEYS)}; missing: {', '.join(missing)}")
    count = arrays["classes"].size
    _require(2 <= count <= _MAX_CLASSES, path, f"classes must name 2 to {_MAX_CLASSES} classes", f"{count}")
    classes = tuple(str(entry) for entry in arrays["classes"].ravel())
    splits = [
        (arrays[f"x_{split}"], arrays[f"y_{split}"], arrays.get(f"record_{split}")) for split in ("train", "test")
    ]
    names = [(f"x_{split}", f"y_{split}", f"record_{split}") for split in ("train", "test")]
    return checked(splits, names, classes, path)


def checked(
    splits: Sequence[tuple[AnyArray, AnyArray, AnyArray | None]],
    names: Sequence[tuple[str, str, str]],
    classes: tuple[str, ...],
    path: Path,
) -> Arrays:
    """Check the arrays of the two splits and return them in their stored type.

    Parameters
    ----------
    splits : sequence of 2 tuples
        Samples, class numbers and groups (or None) for training and for testing, as in `read_npz`.
    names : sequence of 2 tuples
        What to call them in an error.
    classes : tuple of str
        Names of the classes.
    path : Path
        Where they are from.

    Raises
    ------
    ValueError
        If the content is invalid, with one line that names the file and the array.
    """
    train, test = (_samples(*split, called, len(classes), path) for split, called in zip(splits, names, strict=True))
    (of_train, _, _), (of_test, _, _) = splits
    same = train.x.shape[1:] == test.x.shape[1:] and train.x.dtype == test.x.dtype
    rule = f"{names[1][0]} must have the sample shape and type of {names[0][0]}"
    _require(same, path, rule, f"{_look(of_test)} and {_look(of_train)}")
    return Arrays(train, test, classes)


def read_torchvision(dataset: str, name: str, root: Path, download: bool) -> Arrays:
    """Read a data set in torchvision's layout under `root`, optionally downloading it.

    Raises
    ------
    DataNotFound
        If it is missing or damaged, or the download fails.
    """
    # torchvision takes seconds to import and is not needed for .npz files.
    import torchvision.datasets

    make = getattr(torchvision.datasets, dataset)
    try:
        train, test = (make(root, train=part, download=download) for part in (True, False))
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        raise DataNotFound(
            f"task.root: no complete {name} data in {root}; get it with `python run_sim.py task={name} "
            f"task.root={root} task.download=true`, or point task.root at a folder with {name}.npz or torchvision's "
            f"{dataset} files (torchvision: {' '.join(str(error).split())})"
        ) from error
    return Arrays(_from_torchvision(train), _from_torchvision(test), tuple(train.classes))


def _from_torchvision(dataset: Any) -> Samples:
    x = torch.as_tensor(dataset.data)
    return Samples(x if x.ndim == 4 else x.unsqueeze(-1), torch.as_tensor(dataset.targets).long())


def _samples(
    x: AnyArray, y: AnyArray, record: AnyArray | None, names: tuple[str, str, str], num_classes: int, path: Path
) -> Samples:
    grey_or_colour = x.ndim == 3 or (x.ndim == 4 and 1 <= x.shape[3] <= 4)
    if x.dtype == np.uint8 and grey_or_colour and x.size:
        stored = torch.from_numpy(x)
    elif x.dtype.kind == "f" and x.ndim == 2 and x.size:
        stored = torch.from_numpy(x.astype(np.float32, copy=False))
        _require(bool(stored.isfinite().all()), path, f"{names[0]} must be finite", "NaN or infinity")
    else:
        allowed = "non-empty (n, h, w) or (n, h, w, 1 to 4) uint8, or (n, l) floating point"
        raise ValueError(f"task.root: {path}: {names[0]} must be {allowed}; got {_look(x)}")
    for key, values in ((names[1], y), (names[2], record)):
        if values is not None:
            fits = values.dtype.kind in "iu" and values.shape == x.shape[:1]
            _require(fits, path, f"{key} must be ({len(x)},) integers", _look(values))
    in_range = y.min() >= 0 and y.max() < num_classes
    _require(in_range, path, f"{names[1]} must lie in 0..{num_classes - 1}", f"{y.min()}..{y.max()}")
    groups = None if record is None else torch.from_numpy(record.astype(np.int64))
    channels_last = stored if stored.ndim == 4 else stored.unsqueeze(-1)
    return Samples(channels_last, torch.from_numpy(y.astype(np.int64)), groups)


def _require(condition: bool, path: Path, rule: str, got: str) -> None:
    if not condition:
        raise ValueError(f"task.root: {path}: {rule}; got {got}")


def _look(array: AnyArray) -> str:
    return f"{array.shape} {array.dtype}"
