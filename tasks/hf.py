"""Images or signals from a Hugging Face dataset."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .base import DataNotFound, Task
from .npz import as_task
from .sources import AnyArray, checked

_DISK_FILES = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes


def read(
    root: Path,
    download: bool,
    *,
    inputs: str | None = None,
    label: str | None = None,
    group: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
) -> Task:
    """Read a dataset into memory.

    Parameters
    ----------
    root : Path
        A folder that `DatasetDict.save_to_disk` has written, or one of files that `datasets.load_dataset` reads
        (Parquet, CSV, folders of images).
    download : bool
        Take `root`, if there is no such folder, for a name on the Hugging Face Hub.
    inputs : str, optional
        Column of the samples: images of one size, or arrays of numbers of one shape. By default the only such column.
    label : str, optional
        Column of the classes: class labels, integers or strings. By default the only column of class labels, or
        `label`.
    group : str, optional
        Column of the groups (patients, writers, sites): integers or strings.
    train_split, test_split : str
        Splits to train and to test on.

    Raises
    ------
    DataNotFound
        If there is no such dataset.
    ValueError
        If a split or a column is missing or its content cannot be used, or the package `datasets` is missing.
    """
    splits = _load(root, download)
    for key, name in (("train_split", train_split), ("test_split", test_split)):
        if name not in splits:
            raise ValueError(f"task.{key} must be a split of {root}: {', '.join(splits)}; got {name}")
    train, test = splits[train_split], splits[test_split]
    inputs = inputs or _only(train, "inputs", _is_input, root)
    label = label or ("label" if "label" in train.features else _only(train, "label", _is_class_label, root))
    for name, split in ((train_split, train), (test_split, test)):
        for key, column in (("inputs", inputs), ("label", label), ("group", group)):
            if column is not None and column not in split.features:
                present = ", ".join(split.features)
                raise ValueError(f"task.{key} must be a column of split {name} of {root}: {present}; got {column}")
    classes, labels = _numbered((train, test), label, root)
    if len(classes) < 2:
        raise ValueError(f"task.root: {root}: column {label} must hold at least 2 classes; got {len(classes)}")
    groups = (None, None) if group is None else _numbered((train, test), group, root)[1]
    samples = [_samples(part, inputs, root) for part in (train, test)]
    names = [
        (f"column {inputs} of split {name}", f"column {label} of split {name}", f"column {group} of split {name}")
        for name in (train_split, test_split)
    ]
    arrays = checked(list(zip(samples, labels, groups, strict=True)), names, classes, root)
    return as_task("hf", arrays, root, names[0][0])


def _load(root: Path, download: bool) -> Mapping[str, Any]:
    """Return the splits of a dataset by name."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError('task=hf needs Hugging Face datasets: pip install "flwr-echelon[datasets]"') from error

    if not root.is_dir() and not download:
        raise DataNotFound(
            f"task.root must name the folder of a Hugging Face dataset for task hf (docs/tasks.md); no such folder: "
            f"{root}; with task.download=true it may be a name on the Hub"
        )
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if any((root / name).exists() for name in _DISK_FILES):
            loaded: Any = datasets.load_from_disk(root)
        else:
            loaded = datasets.load_dataset(str(root))
    except Exception as error:
        raise DataNotFound(
            f"task.root: {root} cannot be read as a Hugging Face dataset: {' '.join(str(error).split())}"
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()
    return {str(loaded.split or "train"): loaded} if isinstance(loaded, datasets.Dataset) else loaded


def _only(split: Any, key: str, suits: Callable[[Any], bool], root: Path) -> str:
    """Return the only column of a kind."""
    suitable: list[str] = [name for name, feature in split.features.items() if suits(feature)]
    if len(suitable) != 1:
        raise ValueError(
            f"task.{key} must name a column of {root}: {', '.join(split.features)}; got null, and "
            f"{'several' if suitable else 'none'} of them would suit"
        )
    return suitable[0]


def _is_class_label(feature: Any) -> bool:
    return type(feature).__name__ == "ClassLabel"


def _is_input(feature: Any) -> bool:
    return type(feature).__name__ in ("Image", "Array2D", "Array3D", "Sequence", "List", "LargeList")


def _numbered(splits: tuple[Any, Any], name: str, root: Path) -> tuple[tuple[str, ...], tuple[AnyArray, AnyArray]]:
    """Return the names of what is in a column of both splits, and numbers in their place."""
    feature = splits[0].features[name]
    train, test = (np.asarray(split[name][:]) for split in splits)
    if _is_class_label(feature):
        return tuple(feature.names), (train, test)
    for each in (train, test):
        if each.dtype.kind not in "iuU":
            raise ValueError(
                f"task.root: {root}: column {name} must hold class labels, integers or strings; got {feature}"
            )
    distinct = np.unique(np.concatenate([train, test]))
    numbers = np.searchsorted(distinct, train), np.searchsorted(distinct, test)
    return tuple(str(value) for value in distinct), numbers


def _samples(split: Any, column: str, root: Path) -> AnyArray:
    """Return the samples of a split: images as (n, h, w[, 3]) uint8, numbers as they are or as float32."""
    feature = split.features[column]
    if type(feature).__name__ == "Image":
        images = [image if image.mode == "L" else image.convert("RGB") for image in split[column]]
        mode = "RGB" if any(image.mode == "RGB" for image in images) else "L"
        samples: list[AnyArray] = [np.asarray(image.convert(mode)) for image in images]
    else:
        samples = [np.asarray(sample) for sample in split.with_format("numpy")[column]]
    shapes = sorted({sample.shape for sample in samples})
    if len(shapes) != 1:
        found = f"{shapes[0]} and {shapes[1]}: resize or pad them (datasets.Dataset.map)" if shapes else "none"
        raise ValueError(f"task.root: {root}: column {column} must hold samples of one shape; got {found}")
    stacked = np.stack(samples)
    if stacked.dtype.kind not in "iuf":
        raise ValueError(f"task.root: {root}: column {column} must hold images or numbers; got {feature}")
    fits = stacked.ndim >= 3 and stacked.dtype.kind in "iu" and stacked.min() >= 0 and stacked.max() <= 255
    return stacked.astype(np.uint8) if fits else stacked.astype(np.float32)
