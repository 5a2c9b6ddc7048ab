import json
from pathlib import Path

import numpy as np
import pytest

from partitioners import FromFile, Stratified, plan

LABELS = np.repeat([0, 1, 4], [20, 30, 7])
RATIOS = (1.0, 1.0, 3.0)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    plan.save(tmp_path, Stratified()(LABELS, RATIOS, np.random.default_rng(0)), LABELS, RATIOS, {"size_error": 0.5})
    return tmp_path / "partition.npz"


def test_a_saved_plan_comes_back_by_rank(saved: Path) -> None:
    parts = FromFile(saved)(LABELS, (1, 1, 1), np.random.default_rng(9))

    expected = Stratified()(LABELS, RATIOS, np.random.default_rng(0))
    assert [part.tolist() for part in parts] == [part.tolist() for part in expected]


def test_the_description_can_be_read_by_people_and_programs(saved: Path) -> None:
    text = json.loads((saved.parent / "partition.json").read_text())

    assert text == {
        "samples": 57,
        "workers": 3,
        "ratios": [1.0, 1.0, 3.0],
        "sizes": [12, 11, 34],
        "class_counts": [[4, 6, 2], [4, 6, 1], [12, 18, 4]],
        "quality": {"size_error": 0.5},
    }


def test_an_empty_part_survives(tmp_path: Path) -> None:
    plan.save(tmp_path, [np.array([0, 1]), np.array([], dtype=np.int64)], [5, 5], (9, 1))

    assert [part.tolist() for part in plan.load(tmp_path / "partition.npz", [5, 5])] == [[0, 1], []]


def test_other_labels_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="was made for 57 other samples; there are 57 now"):
        plan.load(saved, LABELS[::-1])


def test_another_number_of_workers_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="was made for 3 workers; there are 2 now"):
        FromFile(saved)(LABELS, (1, 1), np.random.default_rng(0))


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", LABELS)
    np.savez(tmp_path / "other.npz", x=LABELS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])

    for name in ("text.npz", "array.npy", "other.npz", "cut.npz"):
        with pytest.raises(ValueError, match=r"partitioner\.path must be a partition\.npz; got .*" + name):
            plan.load(tmp_path / name, LABELS)
    with pytest.raises(FileNotFoundError):
        plan.load(tmp_path / "none.npz", LABELS)


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    plan.save(tmp_path, [np.array([0, 1]), np.array([1])], [5, 5, 5], (2, 1))

    with pytest.raises(ValueError, match="is damaged: its parts do not hold every sample exactly once"):
        plan.load(tmp_path / "partition.npz", [5, 5, 5])
