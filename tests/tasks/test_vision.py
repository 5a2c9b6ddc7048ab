import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from torchvision.datasets import cifar

from tasks import DataNotFound, load

CHW = np.random.default_rng(0).integers(0, 256, size=(4, 3, 32, 32), dtype=np.uint8)
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_reads_the_published_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5: Path(path).is_file())
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for k, name in enumerate([*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"]):
        content = {"data": (CHW + k).reshape(4, -1), "labels": [k, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}))
    task = load("cifar10", tmp_path)
    assert (len(task.train), len(task.test), task.class_names) == (20, 4, tuple(NAMES))
    np.testing.assert_array_equal(task.train.x[4:8].permute(0, 3, 1, 2), CHW + 1)
    assert task.train.y.tolist()[4:8] == [1, 1, 2, 3]
    assert task.test.y.tolist() == [5, 1, 2, 3]


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound) as caught:
        load("cifar100", tmp_path)
    message = str(caught.value)
    assert f"python run_sim.py task=cifar100 task.root={tmp_path} task.download=true" in message
    assert "cifar100.npz" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_download_is_torchvisions_and_its_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def offline(root: Path, train: bool, download: bool) -> None:
        asked.append((root, train, download))
        raise OSError("no\nnetwork")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(DataNotFound, match=r"torchvision: no network\)$"):
        load("cifar10", tmp_path, download=True)
    assert asked == [(tmp_path, True, True)]
