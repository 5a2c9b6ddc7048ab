import gzip
from pathlib import Path

import numpy as np
import pytest

from tasks import DataNotFound, load

PIXELS = np.random.default_rng(0).integers(0, 256, size=(12, 28, 28), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(PIXELS))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(LABELS))
    return folder


def test_reads_the_published_files(raw: Path) -> None:
    task = load("fashion_mnist", raw.parents[1])
    np.testing.assert_array_equal(task.train.x.squeeze(-1), PIXELS)
    np.testing.assert_array_equal(task.test.y, LABELS)
    assert task.class_names[9] == "Ankle boot"


def test_reads_them_compressed(raw: Path) -> None:
    for path in list(raw.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    np.testing.assert_array_equal(load("fashion_mnist", raw.parents[1]).test.x.squeeze(-1), PIXELS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte", idx(PIXELS)[:-1]),
        ("train-images-idx3-ubyte", idx(LABELS)),
        ("train-images-idx3-ubyte", b"\0\0"),
        ("train-images-idx3-ubyte", idx(PIXELS) + b"\0"),
        ("train-images-idx3-ubyte", idx(PIXELS[:0])),
        ("train-labels-idx1-ubyte", idx(LABELS[:5])),
        ("train-labels-idx1-ubyte", idx(LABELS + 1)),
    ],
)
def test_damaged_files_are_refused(raw: Path, name: str, content: bytes) -> None:
    (raw / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"task\.root: .*{name} must"):
        load("fashion_mnist", raw.parents[1])


def test_more_values_than_the_memory_holds_are_refused(raw: Path) -> None:
    (raw / "train-images-idx3-ubyte").unlink()
    bomb = bytes([0, 0, 8, 3]) + 3 * b"\0\1\0\0" + bytes(1000)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz needs at least 562,950\.0 GB of memory"):
        load("fashion_mnist", raw.parents[1])


def test_a_cut_gzip_file_is_refused(raw: Path) -> None:
    (raw / "t10k-labels-idx1-ubyte").unlink()
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS))[:-9])
    with pytest.raises(ValueError, match="must be a complete gzip file"):
        load("fashion_mnist", raw.parents[1])


def test_an_incomplete_folder_says_how_to_get_the_data(raw: Path) -> None:
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataNotFound, match=r"python run_sim\.py task=fashion_mnist task\.root=\S+ task\.download=true"):
        load("fashion_mnist", raw.parents[1])
