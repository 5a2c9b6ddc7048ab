"""Saved partitions: `partition.npz` holds the parts, `partition.json` describes them to a reader."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from echelon.core import npz

from .base import IntArray, check_labels

_ARRAYS = ("indices", "sizes", "labels_crc32")


def save(
    folder: Path,
    parts: Sequence[IntArray],
    labels: npt.ArrayLike,
    ratios: Sequence[float],
    quality: Mapping[str, object] | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write `partition.npz` and `partition.json` into an existing folder.

    Parameters
    ----------
    folder : Path
        It must exist.
    parts : sequence of N int64 arrays
        Sample indices by rank.
    labels : (n,) array of int
        Class of each sample; their checksum is saved, so that the partition is not applied to other data.
    ratios : sequence of N floats
        Capability of each worker, for the description only.
    quality : mapping, optional
        Quality of the partition, as `quality.report(...).to_json()` returns it.
    class_names : sequence of str, optional
        By the number of the class; those of the classes that occur are saved.
    """
    validated, sizes = check_labels(labels), [len(part) for part in parts]
    np.savez_compressed(
        folder / "partition.npz",
        indices=np.concatenate(parts).astype(np.int64),
        sizes=np.array(sizes, dtype=np.int64),
        labels_crc32=np.int64(_checksum(validated)),
    )
    classes = np.unique(validated)
    description: dict[str, object] = {
        "samples": len(validated),
        "workers": len(parts),
        "ratios": [float(x) for x in ratios],
        "sizes": sizes,
        "class_counts": [[int((validated[part] == label).sum()) for label in classes] for part in parts],
        "quality": quality,
    }
    if class_names is not None:
        description["class_names"] = [class_names[label] for label in classes]
    (folder / "partition.json").write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")


def load(path: Path, labels: npt.ArrayLike) -> list[IntArray]:
    """Return the parts in a `partition.npz`.

    Parameters
    ----------
    path : Path
    labels : (n,) array of int
        Class of each sample, equal to those the partition was saved with.

    Returns
    -------
    list of N int64 arrays
        Sample indices by rank.

    Raises
    ------
    ValueError
        If the file is not a saved partition, is damaged, or was saved for other labels.
    FileNotFoundError
        If the file does not exist.
    """
    validated = check_labels(labels)
    try:
        saved = npz.read(path, _ARRAYS)
        indices, sizes, checksum = (saved[name] for name in _ARRAYS)
        if not all(
            array.dtype.kind in "iu" and array.ndim == (name != "labels_crc32") for name, array in saved.items()
        ):
            raise ValueError("its arrays must be integers")
    except (KeyError, ValueError) as error:
        raise ValueError(f"partitioner.path must be a partition.npz; got {path} ({error})") from error
    if len(indices) != len(validated) or int(checksum) != _checksum(validated):
        raise ValueError(
            f"partitioner.path {path} was made for {len(indices)} other samples; there are {len(validated)} now: make "
            "the partition again, or run with the task, root and seed it was made for"
        )
    if not np.array_equal(np.sort(indices), np.arange(len(validated))) or not _divides(sizes, len(validated)):
        raise ValueError(f"partitioner.path {path} is damaged: its parts do not hold every sample exactly once")
    return [np.asarray(part, dtype=np.int64) for part in np.split(indices, np.cumsum(sizes)[:-1])]


def _divides(sizes: npt.NDArray[np.generic], samples: int) -> bool:
    return min(sizes.tolist(), default=0) >= 0 and sum(sizes.tolist()) == samples


def _checksum(labels: IntArray) -> int:
    return zlib.crc32(labels.astype("<i8").tobytes())
