"""Contract of every row in the table of tasks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import MODELS, REGISTRY, DataNotFound, Task, load

NAMES = list(REGISTRY)


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest, task_root: Callable[[str], Path]) -> Task:
    return load(request.param, task_root(request.param))


def test_names_itself_and_its_classes(task: Task) -> None:
    assert task.name in NAMES
    assert len(set(task.class_names)) == task.num_classes >= 2
    assert sorted(set(task.train.y.tolist())) == list(range(task.num_classes))


def test_batches_are_normalised_floats_of_the_input_shape(task: Task) -> None:
    x, y = task.train.batch(torch.tensor([2, 0, 2]))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert x.shape == (3, *task.input_shape)
    assert x.is_contiguous()
    assert torch.equal(x[0], x[2])
    stored = task.train.x[2, ..., 0].double().flatten()
    expected = (stored - task.train.scaling.mean[0].double()) / task.train.scaling.std[0].double()
    torch.testing.assert_close(x[0, 0].double().flatten(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(y, task.train.y[[2, 0, 2]])


def test_batches_leave_the_stored_values_alone(task: Task) -> None:
    before = task.train.x.clone()
    task.train.batch(torch.arange(4))[0].fill_(9)
    task.train.features().fill(9)
    assert torch.equal(task.train.x, before)


def test_stores_compactly(task: Task) -> None:
    images = len(task.input_shape) == 3
    assert task.train.x.dtype == task.test.x.dtype == (torch.uint8 if images else torch.float32)
    assert task.train.y.dtype == torch.int64


def test_features_are_rows_in_the_unit_interval(task: Task) -> None:
    for split in (task.train, task.test):
        features = split.features()
        assert features.shape == (len(split), np.prod(task.input_shape))
        assert features.dtype == np.float32
        assert features.min() >= 0
        assert features.max() <= 1
        low, high = split.scaling.low, split.scaling.high
        expected = (split.x[1].double().flatten() - low) / (high - low)
        np.testing.assert_allclose(features[1], expected.clamp(0, 1), atol=1e-6)


def test_groups_belong_to_samples(task: Task) -> None:
    assert task.groups is task.train.groups
    if task.groups is not None:
        assert task.groups.dtype == torch.int64
        assert len(task.groups) == len(task.train)


def test_the_default_model_fits(task: Task) -> None:
    assert MODELS[task.default_model].fits(task.input_shape)


@pytest.mark.parametrize("name", NAMES)
def test_loads_the_same_twice_and_writes_nothing(name: str, task_root: Callable[[str], Path], tmp_path: Path) -> None:
    root = task_root(name)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    first, second = load(name, root), load(name, root)
    assert torch.equal(first.train.x, second.train.x)
    assert torch.equal(first.test.y, second.test.y)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_balanced_and_nested(name: str, task_root: Callable[[str], Path]) -> None:
    root = task_root(name)
    classes = load(name, root).num_classes
    task = load(name, root, train_limit=2 * classes, test_limit=classes)
    assert torch.bincount(task.train.y).tolist() == [2] * classes
    assert torch.bincount(task.test.y).tolist() == [1] * classes
    assert torch.equal(task.train.scaling.mean, load(name, root).train.scaling.mean)


@pytest.mark.parametrize("name", [name for name in NAMES if REGISTRY[name].on_disk])
def test_missing_data_names_the_key_and_the_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"task\.root") as caught:
        load(name, tmp_path / "nowhere.npz")
    assert str(tmp_path / "nowhere.npz") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in NAMES if REGISTRY[name].on_disk and REGISTRY[name].shape])
def test_data_of_another_shape_is_refused(
    name: str, write: Callable[..., Path], task_root: Callable[[str], Path]
) -> None:
    with pytest.raises(ValueError, match=r"task\.root must contain data of shape .* for task " + name + "; got shape"):
        load(name, _with_records(task_root("npz"), write))


def _with_records(path: Path, write: Callable[..., Path]) -> Path:
    arrays = dict(np.load(path))
    records = {f"record_{split}": arrays[f"y_{split}"] for split in ("train", "test")}
    return write(arrays | records, "recorded")
