from pathlib import Path

import numpy as np
import pytest

from partitioners import FilePartitioner, StratifiedPartitioner, storage

LABELS = np.repeat([0, 1, 4], [20, 30, 7])
RATIOS = (1.0, 1.0, 3.0)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    storage.save(tmp_path, StratifiedPartitioner()(LABELS, RATIOS, np.random.default_rng(0)), LABELS, RATIOS)
    return tmp_path / "partition.npz"


def test_the_saved_parts_come_back_by_rank(saved: Path) -> None:
    parts = FilePartitioner(saved)(LABELS, (1, 1, 1), np.random.default_rng(9))

    expected = StratifiedPartitioner()(LABELS, RATIOS, np.random.default_rng(0))
    assert [part.tolist() for part in parts] == [part.tolist() for part in expected]


def test_other_labels_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="was made for 57 other samples; there are 57 now"):
        FilePartitioner(saved)(LABELS[::-1], RATIOS, np.random.default_rng(0))


def test_another_number_of_workers_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="was made for 3 workers; there are 2 now"):
        FilePartitioner(str(saved))(LABELS, (1, 1), np.random.default_rng(0))
