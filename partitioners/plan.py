"""The partition plan on disk: `partition.npz` holds the parts, `partition.json` describes them to a reader."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .base import IntArray, check_labels


def save(
    folder: Path,
    parts: Sequence[IntArray],
    labels: npt.ArrayLike,
    ratios: Sequence[float],
    quality: Mapping[str, object] | None = None,
) -> None:
    """Write `partition.npz` and `partition.json` into an existing folder.

    Parameters
    ----------
    folder : Path
    parts : N arrays of sample indices, by rank
    labels : (n,) array of int
        A checksum of them is kept, so that the plan is not applied to other data.
    ratios : N floats
    quality : mapping, optional
        What `quality.report(...).to_json()` returns.
    """
    checked, sizes = check_labels(labels), [len(part) for part in parts]
    np.savez_compressed(
        folder / "partition.npz",
        indices=np.concatenate(parts).astype(np.int64),
        sizes=np.array(sizes, dtype=np.int64),
        labels_crc32=np.int64(_checksum(checked)),
    )
    classes = np.unique(checked)
    text = {
        "samples": len(checked),
        "workers": len(parts),
        "ratios": [float(x) for x in ratios],
        "sizes": sizes,
        "class_counts": [[int((checked[part] == label).sum()) for label in classes] for part in parts],
        "quality": quality,
    }
    (folder / "partition.json").write_text(json.dumps(text, indent=2, allow_nan=False) + "\n")


def load(path: Path, labels: npt.ArrayLike) -> list[IntArray]:
    """Return the parts in a `partition.npz`.

    Raises
    ------
    ValueError
        If the file is no plan, or was made for other labels.
    FileNotFoundError
        If there is no such file.
    """
    checked = check_labels(labels)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as plan:
            indices, sizes, checksum = plan["indices"], plan["sizes"], int(plan["labels_crc32"])
    except (KeyError, TypeError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"partitioner.path must be a partition.npz; got {path} ({error})") from error
    if len(indices) != len(checked) or checksum != _checksum(checked):
        raise ValueError(
            f"partitioner.path {path} was made for {len(indices)} other samples; there are {len(checked)} now: make "
            "the plan again, or run with the task, root and seed it was made for"
        )
    if not np.array_equal(np.sort(indices), np.arange(len(checked))) or sizes.sum() != len(checked):
        raise ValueError(f"partitioner.path {path} is damaged: its parts do not hold every sample exactly once")
    return [np.asarray(part, dtype=np.int64) for part in np.split(indices, np.cumsum(sizes)[:-1])]


def _checksum(labels: IntArray) -> int:
    return zlib.crc32(labels.astype("<i8").tobytes())
