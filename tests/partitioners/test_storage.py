import json
from pathlib import Path

import numpy as np
import pytest

from partitioners import storage

LABELS = np.repeat([0, 1, 4], [2, 3, 1])
RATIOS = (1.0, 2.0)
PARTS = [np.array([1, 5]), np.array([0, 2, 3, 4])]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    storage.save(tmp_path, PARTS, LABELS, RATIOS, {"size_error": 0.5})
    return tmp_path / "partition.npz"


def test_saved_parts_are_loaded_by_rank(saved: Path) -> None:
    assert [part.tolist() for part in storage.load(saved, LABELS)] == [part.tolist() for part in PARTS]


def test_names_of_the_classes_that_occur(tmp_path: Path) -> None:
    storage.save(tmp_path, PARTS, LABELS, RATIOS, class_names=[f"class {number}" for number in range(20)])
    text = json.loads((tmp_path / "partition.json").read_text())
    assert text["class_names"] == [f"class {label}" for label in sorted(set(LABELS))]


def test_the_description_can_be_read_by_people_and_programs(saved: Path) -> None:
    text = json.loads((saved.parent / "partition.json").read_text())

    assert text == {
        "samples": 6,
        "workers": 2,
        "ratios": [1.0, 2.0],
        "sizes": [2, 4],
        "class_counts": [[1, 0, 1], [1, 3, 0]],
        "quality": {"size_error": 0.5},
    }


def test_an_empty_part_survives(tmp_path: Path) -> None:
    storage.save(tmp_path, [np.array([0, 1]), np.array([], dtype=np.int64)], [5, 5], (9, 1))

    assert [part.tolist() for part in storage.load(tmp_path / "partition.npz", [5, 5])] == [[0, 1], []]


def test_other_labels_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="was made for 6 other samples; there are 6 now"):
        storage.load(saved, LABELS[::-1])


def test_a_file_that_is_no_saved_partition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", LABELS)
    np.savez(tmp_path / "other.npz", x=LABELS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])

    for name in ("text.npz", "array.npy", "other.npz", "cut.npz"):
        with pytest.raises(ValueError, match=r"partitioner\.path must be a partition\.npz; got .*" + name):
            storage.load(tmp_path / name, LABELS)
    with pytest.raises(FileNotFoundError):
        storage.load(tmp_path / "none.npz", LABELS)


def test_a_damaged_partition_is_refused(tmp_path: Path) -> None:
    storage.save(tmp_path, [np.array([0, 1]), np.array([1])], [5, 5, 5], (2, 1))

    with pytest.raises(ValueError, match="is damaged: its parts do not hold every sample exactly once"):
        storage.load(tmp_path / "partition.npz", [5, 5, 5])
