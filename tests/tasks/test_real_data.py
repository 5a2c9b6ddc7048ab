"""The published data; requires the environment variable ECHELON_DATA with its folder."""

import os
from pathlib import Path

import pytest
import torch

from tasks import DataNotFound, Task, load

ROOT = os.environ.get("ECHELON_DATA")


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Task:
    if ROOT is None:
        pytest.skip("ECHELON_DATA names no folder")
    try:
        return load(request.param, Path(ROOT))
    except DataNotFound as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("real", "train", "test"),
    [("fashion_mnist", 60_000, 10_000), ("cifar10", 50_000, 10_000)],
    indirect=["real"],
)
def test_is_whole_and_its_constants_are_right(real: Task, train: int, test: int) -> None:
    assert (len(real.train), len(real.test)) == (train, test)
    assert torch.bincount(real.train.y).tolist() == [train // 10] * 10
    x, _ = real.train.batch(torch.arange(0, train, 5))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(len(x[0])), atol=0.01, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(len(x[0])), atol=0.01, rtol=0)


@pytest.mark.parametrize("real", ["cifar100"], indirect=True)
def test_cifar100_has_equally_many_of_every_class(real: Task) -> None:
    assert len(set(torch.bincount(real.train.y).tolist())) == 1
    assert real.class_names[:2] == ("apple", "aquarium_fish")


@pytest.mark.parametrize("real", ["mitbih"], indirect=True)
def test_patients_are_in_one_split_only(real: Task) -> None:
    assert real.groups is not None
    assert real.test.groups is not None
    train, test = set(real.groups.tolist()), set(real.test.groups.tolist())
    assert (len(train), len(test), len(train & test)) == (22, 22, 0)
    assert real.class_names == ("N", "S", "V", "F")
