"""The table of tasks; each row adds a task to `load` and to the contract tests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from . import cifar10, cifar100, digits, fashion_mnist, hf, mitbih, npz
from .base import Shape, Task
from .limits import limited


class Row(NamedTuple):
    """Reader and required shape of a task.

    Attributes
    ----------
    read : callable
        `read(root, download, **options) -> Task` with all samples; `options` are the task's own keys.
    shape : Shape or None
        Required shape of the data; None if any shape is allowed.
    on_disk : bool
        Whether the data is read from `root`.
    """

    read: Callable[..., Task]
    shape: Shape | None
    on_disk: bool = True


REGISTRY: dict[str, Row] = {
    "digits": Row(digits.read, Shape((1, 8, 8), 10), on_disk=False),
    "fashion_mnist": Row(fashion_mnist.read, Shape((1, 28, 28), 10)),
    "cifar10": Row(cifar10.read, Shape((3, 32, 32), 10)),
    "cifar100": Row(cifar100.read, Shape((3, 32, 32), 100)),
    "mitbih": Row(mitbih.read, Shape((1, 128), 4)),
    "npz": Row(npz.read, None),
    "hf": Row(hf.read, None),
}


def load(
    name: str,
    root: str | Path | None = None,
    *,
    download: bool = False,
    augment: bool = False,
    train_limit: int | None = None,
    test_limit: int | None = None,
    **options: Any,
) -> Task:
    """Load a task into memory.

    Parameters
    ----------
    name : str
        A key of `REGISTRY`.
    root : str or Path, optional
        Location of the data, written to only with `download`; default: `data` in the working directory.
    download : bool
        Let torchvision download missing data to `root`.
    augment : bool
        Augment training mini-batches.
    train_limit, test_limit : int, optional
        Maximum number of samples, balanced over the classes (see `tasks.limits.limited`).
    **options
        Further keys of the task (see `tasks.hf.read`).

    Returns
    -------
    Task

    Raises
    ------
    DataNotFound
        If the data is not at `root`; the message explains how to obtain it.
    ValueError
        If an option or the content of the data is invalid.
    """
    if name not in REGISTRY:
        raise ValueError(f"task must be one of {', '.join(REGISTRY)}; got {name}")
    row = REGISTRY[name]
    task = row.read(Path("data" if root is None else root).expanduser(), download, **options)
    actual = Shape(task.input_shape, task.num_classes)
    if row.shape is not None and actual != row.shape:
        raise ValueError(f"task.root must contain data of {_words(row.shape)} for task {name}; got {_words(actual)}")
    if augment and task.augment is None:
        raise ValueError(f"task.augment must be false for task {name}; got true")
    return replace(
        task,
        train=limited(task.train, train_limit, "task.train_limit"),
        test=limited(task.test, test_limit, "task.test_limit"),
        augment=task.augment if augment else None,
    )


def _words(shape: Shape) -> str:
    return f"shape {shape.input_shape} and {shape.num_classes} classes"
