"""Tiny .npz data sets for every task that reads one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks import REGISTRY, Shape

Arrays = dict[str, NDArray[Any]]
OWN_IMAGES = Shape((3, 12, 16), 3)


def tiny_arrays(shape: Shape, per_class: int = 3, test_per_class: int = 2) -> Arrays:
    generator = np.random.default_rng(0)
    arrays: Arrays = {"classes": np.array([f"class {k}" for k in range(shape.num_classes)])}
    for split, count in (("train", per_class), ("test", test_per_class)):
        y = np.repeat(np.arange(shape.num_classes), count)
        if len(shape.input_shape) == 3:
            channels, height, width = shape.input_shape
            sizes = (height, width) if channels == 1 else (height, width, channels)
            x: NDArray[Any] = generator.integers(0, 256, size=(len(y), *sizes), dtype=np.uint8)
        else:
            x = generator.normal(size=(len(y), shape.input_shape[1])).astype(np.float32)
            arrays[f"record_{split}"] = (100 + np.arange(len(y)) % 2).astype(np.uint8)
        arrays |= {f"x_{split}": x, f"y_{split}": y}
    return arrays


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes arrays to an .npz file in the temporary folder."""

    def save(arrays: Arrays, name: str = "own") -> Path:
        path = tmp_path / f"{name}.npz"
        np.savez(path, allow_pickle=False, **arrays)
        return path

    return save


@pytest.fixture
def task_root(write: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes tiny data for a task and returns its root."""

    def make(name: str) -> Path:
        arrays = tiny_arrays(REGISTRY[name].shape or OWN_IMAGES)
        return hugging_face(arrays, tmp_path / name) if name == "hf" else write(arrays, name)

    return make


def hugging_face(arrays: Arrays, folder: Path) -> Path:
    """Write images as a Hugging Face dataset; return its folder."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=arrays["classes"].tolist())}
    )
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [Image.fromarray(x) for x in arrays[f"x_{split}"]], "label": arrays[f"y_{split}"].tolist()},
            features=features,
        )
        for split in ("train", "test")
    }
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder
