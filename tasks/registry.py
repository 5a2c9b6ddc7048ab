"""The table of tasks: one row enrols a task in `load` and in the contract tests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from . import cifar10, cifar100, digits, fashion_mnist, mitbih, npz
from .base import Shape, Task
from .limits import limited


class Row(NamedTuple):
    """How a task is read.

    Attributes
    ----------
    read : callable
        `read(root, download) -> Task` with everything that is there.
    shape : Shape or None
        What the data must look like; None where the data decides.
    """

    read: Callable[[Path, bool], Task]
    shape: Shape | None


TASKS: dict[str, Row] = {
    "digits": Row(digits.read, Shape((1, 8, 8), 10)),
    "fashion_mnist": Row(fashion_mnist.read, Shape((1, 28, 28), 10)),
    "cifar10": Row(cifar10.read, Shape((3, 32, 32), 10)),
    "cifar100": Row(cifar100.read, Shape((3, 32, 32), 100)),
    "mitbih": Row(mitbih.read, Shape((1, 128), 4)),
    "npz": Row(npz.read, None),
}


def load(
    name: str,
    root: str | Path | None = None,
    *,
    download: bool = False,
    augment: bool = False,
    train_limit: int | None = None,
    test_limit: int | None = None,
) -> Task:
    """Load a task into memory.

    Parameters
    ----------
    name : str
        A key of `TASKS`.
    root : str or Path, optional
        Where the data is, never written to unless `download` asks for it; `data` in the working directory if None.
    download : bool
        Let torchvision bring the data to `root` if it is not there.
    augment : bool
        Keep the task's augmentation of training mini-batches.
    train_limit, test_limit : int, optional
        Keep at most so many samples, balanced over the classes (see `tasks.limits.limited`).

    Returns
    -------
    Task

    Raises
    ------
    DataNotFound
        If the data is not at `root`; the message says how to bring it.
    ValueError
        If an option or the data's content is wrong.
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {name}")
    row = TASKS[name]
    task = row.read(Path("data" if root is None else root).expanduser(), download)
    found = Shape(task.input_shape, task.num_classes)
    if row.shape is not None and found != row.shape:
        raise ValueError(f"task.root must hold data of {_words(row.shape)} for task {name}; got {_words(found)}")
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
