"""Single heartbeats of the MIT-BIH Arrhythmia Database: 128 samples at 180 Hz, 4 classes, grouped by patient record."""

from dataclasses import replace
from pathlib import Path

from . import npz
from .base import DataNotFound, Task
from .sources import npz_path


def read(root: Path, download: bool) -> Task:
    """Read `<root>/mitbih.npz` (layout: docs/tasks.md), in mV; `download` is ignored.

    Training and test records are different patients: the split DS1/DS2 of de Chazal et al., IEEE TBME 51(7), 2004.
    Source: G. Moody, R. Mark, IEEE Eng. Med. Biol. 20(3), 2001.
    """
    path = npz_path(root, "mitbih")
    if not path.is_file():
        raise DataNotFound(
            f"task.root: no such file: {path}; task mitbih has no download, create the file as in docs/tasks.md"
        )
    task = npz.read(path, download)
    if task.groups is None:
        raise ValueError(
            f"task.root: {path} must contain the array record_train for task mitbih; missing: record_train"
        )
    return replace(task, name="mitbih")
