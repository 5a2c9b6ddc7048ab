"""User-provided images or signals from one .npz file."""

from pathlib import Path

from .augment import crop_and_flip
from .base import DataNotFound, Scaling, Split, Task
from .models import MODELS
from .sources import Arrays, read_npz


def read(root: Path, download: bool) -> Task:
    """Read the file that `root` names (layout: `tasks.sources.read_npz`); `download` is ignored.

    Mean and deviation are those of the training set. Only images can be augmented.
    """
    if not root.is_file():
        raise DataNotFound(
            f"task.root must name the .npz file of task npz (layout: docs/tasks.md); no such file: {root}"
        )
    return as_task("npz", read_npz(root), root, "x_train")


def as_task(name: str, arrays: Arrays, root: Path, x_train: str) -> Task:
    """Return the task of a user's arrays; `x_train` is what an error calls the training samples."""
    x = arrays.train.x
    images = x.ndim == 4
    low, high = (0.0, 255.0) if images else (float(x.min()), float(x.max()))
    if low == high:
        raise ValueError(f"task.root: {root}: {x_train} must not be constant; got {low} everywhere")
    scaling = Scaling.fit(x, low, high)
    train, test = (Split(part.x, part.y, scaling, part.groups) for part in (arrays.train, arrays.test))
    return Task(
        name=name,
        train=train,
        test=test,
        class_names=arrays.classes,
        default_model=next(name for name in ("cnn", "cnn1d", "mlp") if MODELS[name].fits(train.input_shape)),
        augment=crop_and_flip if images else None,
    )
