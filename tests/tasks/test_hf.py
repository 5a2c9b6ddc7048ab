"""Hugging Face datasets as a task: their forms and columns, and one line for what cannot be used."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from tasks import DataNotFound, load
from tests.tasks.conftest import OWN_IMAGES, hugging_face, tiny_arrays

Save = Callable[..., Path]
SIGNAL = {"x": [[0.0, 1.0], [2.0, 3.0]] * 2, "label": [7, 3, 7, 3]}


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes columns as the splits of a dataset and returns its folder."""

    def write(columns: dict[str, list[Any]], features: Any = None, splits: tuple[str, ...] = ("train", "test")) -> Path:
        each = datasets.Dataset.from_dict(columns, features=features)
        datasets.DatasetDict(dict.fromkeys(splits, each)).save_to_disk(tmp_path / "data")
        return tmp_path / "data"

    return write


def test_images_keep_their_values(tmp_path: Path) -> None:
    arrays = tiny_arrays(OWN_IMAGES)
    task = load("hf", hugging_face(arrays, tmp_path / "data"))
    assert torch.equal(task.train.x, torch.from_numpy(arrays["x_train"]))
    assert torch.equal(task.test.y, torch.from_numpy(arrays["y_test"]))
    assert task.class_names == ("class 0", "class 1", "class 2")
    assert task.default_model == "cnn"


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    saved = hugging_face(tiny_arrays(OWN_IMAGES), tmp_path / "saved")
    (tmp_path / "files").mkdir()
    for name, split in datasets.load_from_disk(saved).items():
        split.to_parquet(tmp_path / "files" / f"{name}.parquet")
    first, second = load("hf", saved), load("hf", tmp_path / "files")
    assert torch.equal(first.train.x, second.train.x)
    assert first.class_names == second.class_names


def test_signals_with_any_labels_and_groups(save: Save) -> None:
    root = save({**SIGNAL, "patient": ["b", "a", "b", "c"]})
    task = load("hf", root, inputs="x", group="patient", test_split="train")
    assert task.class_names == ("3", "7")
    assert task.train.y.tolist() == [1, 0, 1, 0]
    assert task.train.x[:, :, 0].tolist() == SIGNAL["x"]
    assert task.groups is not None
    assert task.groups.tolist() == [1, 0, 1, 2]


def test_texts_as_classes(save: Save) -> None:
    task = load("hf", save({"x": SIGNAL["x"], "kind": ["up", "down", "up", "up"]}), label="kind")
    assert task.class_names == ("down", "up")
    assert task.train.y.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("1", 3)])
def test_modes_of_images(mode: str, channels: int, save: Save) -> None:
    images = [Image.new("L", (4, 5), value).convert(mode) for value in (0, 255)]
    root = save(
        {"image": images, "label": [0, 1]}, datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    )
    assert load("hf", root).train.x.shape == (2, 5, 4, channels)


def test_grey_images_among_coloured_ones(save: Save) -> None:
    images = [Image.new("L", (2, 2), 7), Image.new("RGB", (2, 2), (1, 2, 3))]
    root = save(
        {"image": images, "label": [0, 1]}, datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    )
    assert load("hf", root).train.x[:, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]


@pytest.mark.parametrize(
    ("columns", "keys", "line"),
    [
        (SIGNAL, {"test_split": "dev"}, "task.test_split must be a split of .*: train, test; got dev"),
        (SIGNAL, {"inputs": "img"}, "task.inputs must be a column of split train of .*: x, label; got img"),
        (SIGNAL, {"label": "y"}, "task.label must be a column of split train of .*: x, label; got y"),
        (SIGNAL, {"group": "site"}, "task.group must be a column of split train of .*: x, label; got site"),
        ({**SIGNAL, "z": SIGNAL["x"]}, {}, "task.inputs must name a column of .*: x, label, z; got null, and several"),
        ({"y": [0.5], "label": [0]}, {}, "task.inputs must name a column of .*: y, label; got null, and none of them"),
        ({"x": SIGNAL["x"]}, {}, "task.label must name a column of .*: x; got null, and none of them would suit"),
        ({"x": SIGNAL["x"], "label": [0.5] * 4}, {}, "column label must hold class labels, integers or strings; got"),
        (
            {"x": [[1.0], [1.0, 2.0]], "label": [0, 1]},
            {},
            r"must hold samples of one shape; got \(1,\) and \(2,\): resize",
        ),
        ({"x": [["a"], ["b"]], "label": [0, 1]}, {}, "column x must hold images or numbers; got List"),
        ({"x": [[np.nan], [1.0]], "label": [0, 1]}, {}, "column x of split train must be finite; got NaN or infinity"),
        (
            {"x": [[1.0], [1.0]], "label": [0, 1]},
            {},
            "column x of split train must not be constant; got 1.0 everywhere",
        ),
        ({"x": SIGNAL["x"], "label": [0] * 4}, {}, "column label must hold at least 2 classes; got 1"),
    ],
)
def test_what_is_refused(columns: Any, keys: Any, line: str, save: Save) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        load("hf", save(columns), **keys)
    assert "\n" not in str(caught.value)


def test_labels_that_are_missing(save: Save) -> None:
    """Hugging Face marks a sample without a label by -1."""
    features = datasets.Features(x=datasets.Sequence(datasets.Value("float32")), label=datasets.ClassLabel(2))
    root = save({"x": SIGNAL["x"], "label": [0, 1, -1, 1]}, features)
    with pytest.raises(ValueError, match=r"column label of split train must lie in 0..1; got -1..1"):
        load("hf", root)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("no data")
    with pytest.raises(DataNotFound, match=r"task.root: .* cannot be read as a Hugging Face dataset: ") as caught:
        load("hf", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_name_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load_dataset(name: str) -> Any:
        asked.append(name)
        return datasets.DatasetDict(dict.fromkeys(("train", "test"), datasets.Dataset.from_dict(SIGNAL)))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataNotFound, match=r"with task.download=true it may be a name on the Hub"):
        load("hf", "owner/pulses")
    assert len(load("hf", "owner/pulses", download=True).train) == 4
    assert asked == ["owner/pulses"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"task=hf needs Hugging Face datasets: pip install"):
        load("hf", tmp_path)


def test_progress_bars_stay_as_they_were(tmp_path: Path) -> None:
    root = hugging_face(tiny_arrays(OWN_IMAGES), tmp_path / "data")
    for shown in (True, False):
        (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
        load("hf", root)
        assert datasets.are_progress_bars_disabled() is not shown
    datasets.enable_progress_bars()
