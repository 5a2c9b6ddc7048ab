import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks import DataNotFound, Shape, load
from tests.tasks.conftest import Arrays, tiny_arrays

IMAGES = Shape((3, 12, 16), 3)
SIGNALS = Shape((1, 40), 4)
Write = Callable[..., Path]


def test_reads_colour_images(write: Write) -> None:
    arrays = tiny_arrays(IMAGES)
    task = load("npz", write(arrays))
    assert (task.input_shape, task.class_names, task.default_model) == (
        (3, 12, 16),
        ("class 0", "class 1", "class 2"),
        "cnn",
    )
    everything = task.train.batch(torch.arange(len(task.train)))[0].double()
    torch.testing.assert_close(everything.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        everything.var((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0
    )
    red = (arrays["x_train"][4, :, :, 0] - arrays["x_train"][..., 0].mean()) / arrays["x_train"][..., 0].std()
    np.testing.assert_allclose(everything[4, 0], red, atol=1e-5)


def test_reads_signals_in_double_precision(write: Write) -> None:
    arrays = tiny_arrays(SIGNALS)
    arrays["x_train"] = arrays["x_train"].astype(np.float64)
    task = load("npz", write(arrays))
    assert (task.input_shape, task.default_model) == ((1, 40), "cnn1d")
    assert task.groups is not None
    assert task.groups.tolist() == arrays["record_train"].tolist()
    low, high = arrays["x_train"].min(), arrays["x_train"].max()
    np.testing.assert_allclose(task.train.features(), (arrays["x_train"] - low) / (high - low), atol=1e-6)


def test_a_constant_channel_becomes_zero(write: Write) -> None:
    arrays = tiny_arrays(IMAGES)
    arrays["x_train"][..., 1] = 7
    x, _ = load("npz", write(arrays)).train.batch(torch.arange(3))
    assert x[:, 1].abs().max() == 0


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"task\.root must name the \.npz file of task npz"):
        load("npz", tmp_path)


def without(key: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {other: array for other, array in arrays.items() if other != key}


def with_(key: str, value: object) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {key: np.asarray(value)}


X = np.zeros((9, 12, 16, 3), np.uint8)
BAD_IMAGES = [
    (without("y_test"), "missing: y_test"),
    (with_("classes", np.zeros(1 << 17, "S1")), "classes must name 2 to 65536 classes; got 131072"),
    (with_("classes", ["only"]), "classes must name 2 to 65536 classes; got 1"),
    (with_("x_train", X.astype(np.int32)), "x_train must be non-empty"),
    (with_("x_train", X.transpose(0, 3, 1, 2)), "x_train must be non-empty"),
    (with_("x_train", X[:0]), "got (0, 12, 16, 3) uint8"),
    (
        with_("x_test", X[:6, :11]),
        "x_test must have the sample shape and type of x_train; got (6, 11, 16, 3) uint8 and (9, 12, 16, 3) uint8",
    ),
    (with_("y_train", np.arange(8)), "y_train must be (9,) integers; got (8,) int64"),
    (with_("y_train", np.zeros(9)), "y_train must be (9,) integers; got (9,) float64"),
    (with_("y_train", np.full(9, 3)), "y_train must lie in 0..2; got 3..3"),
    (with_("y_test", np.full(6, -1)), "y_test must lie in 0..2; got -1..-1"),
    (with_("record_train", np.arange(2)), "record_train must be (9,) integers; got (2,) int64"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_IMAGES)
def test_bad_images_are_refused(spoil: Callable[[Arrays], Arrays], message: str, write: Write) -> None:
    path = write(spoil(tiny_arrays(IMAGES)))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load("npz", path)
    assert str(caught.value).startswith(f"task.root: {path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "x_train must be finite"), (2.0, "x_train must not be constant")]
)
def test_bad_signals_are_refused(value: float, message: str, write: Write) -> None:
    arrays = tiny_arrays(SIGNALS)
    arrays["x_train"][:] = value
    with pytest.raises(ValueError, match=message):
        load("npz", write(arrays))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.npz: it must be a complete \.npz file"):
        load("npz", path)


def test_a_damaged_file_is_refused(write: Write) -> None:
    path = write(tiny_arrays(IMAGES))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.npz cannot be read: Bad CRC"):
        load("npz", path)


def test_pickled_objects_are_refused(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "pickled.npz"
    np.savez(path, allow_pickle=True, **tiny_arrays(IMAGES) | {"classes": np.array(["a", None, "c"], dtype=object)})
    with pytest.raises(ValueError, match=r"pickled\.npz cannot be read: array classes holds pickled objects"):
        load("npz", path)


def test_other_arrays_are_not_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = tiny_arrays(IMAGES)
    path = write(arrays | {"of_somebody_else": np.zeros(10**7)})
    monkeypatch.setattr("echelon.core.memory.available", lambda: 10**7)
    np.testing.assert_array_equal(load("npz", path).train.x, arrays["x_train"])


def test_arrays_larger_than_the_memory_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tiny_arrays(IMAGES))
    monkeypatch.setattr("echelon.core.memory.available", lambda: 1000)
    with pytest.raises(ValueError, match=r"own\.npz cannot be read: the file needs at least .* MB of memory"):
        load("npz", path)


def test_heartbeats_need_their_records(write: Write) -> None:
    path = write(without("record_train")(tiny_arrays(Shape((1, 128), 4))), "mitbih")
    with pytest.raises(ValueError, match="missing: record_train"):
        load("mitbih", path.parent)
