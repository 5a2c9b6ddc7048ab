from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import load
from tasks.augment import crop_and_flip


def test_an_unknown_task_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"^task must be one of digits, fashion_mnist, .*; got mnist$"):
        load("mnist")


@pytest.mark.parametrize("option", ["train_limit", "test_limit"])
def test_a_limit_below_one_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"^task\.{option} must be at least 1; got 0$"):
        load("digits", **{option: 0})  # type: ignore[arg-type]


def test_augmentation_is_kept_only_on_request(task_root: Callable[[str], Path]) -> None:
    root = task_root("cifar10")
    assert load("cifar10", root).augment is None
    assert load("cifar10", root, augment=True).augment is crop_and_flip


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "mitbih"])
def test_augmentation_is_refused_where_there_is_none(name: str, task_root: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=rf"^task\.augment must be false for task {name}; got true$"):
        load(name, task_root(name), augment=True)


def test_a_limit_keeps_the_first_of_every_class_in_order() -> None:
    whole, part = load("digits").train, load("digits", train_limit=23).train
    counts = torch.bincount(part.y).tolist()
    assert (len(part), min(counts), max(counts)) == (23, 2, 3)
    kept = np.sort(np.concatenate([np.flatnonzero(whole.y.numpy() == k)[:n] for k, n in enumerate(counts)]))
    assert torch.equal(part.x, whole.x[torch.from_numpy(kept)])


def test_a_limit_lets_records_take_turns(task_root: Callable[[str], Path]) -> None:
    # Three beats per class, of records 100, 101, 100 or 101, 100, 101: two of them are one of each.
    task = load("mitbih", task_root("mitbih"), train_limit=8)
    assert task.groups is not None
    for label in range(4):
        assert sorted(task.groups[task.train.y == label].tolist()) == [100, 101]


def test_a_limit_takes_more_of_the_others_when_a_class_runs_out(write: Callable[..., Path]) -> None:
    y = np.array([0] * 10 + [1] * 2)
    x = np.arange(12 * 64, dtype=np.float64).reshape(12, 8, 8).astype(np.uint8)
    path = write({"x_train": x, "y_train": y, "x_test": x, "y_test": y, "classes": np.array(["a", "b"])})
    task = load("npz", path, train_limit=7, test_limit=100)
    assert torch.bincount(task.train.y).tolist() == [5, 2]
    assert len(task.test) == 12
