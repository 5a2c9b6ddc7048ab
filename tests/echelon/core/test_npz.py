"""Damaged and hostile .npz files end in one line, before memory is allocated for them."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.lib.format import write_array_header_1_0

from echelon.core import npz


def member(shape: tuple[int, ...], dtype: str = "|u1", data: bytes = b"") -> bytes:
    file = io.BytesIO()
    write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue() + data


def archive(compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as writer:
        for name, content in members.items():
            writer.writestr(f"{name}.npy", content)
    return bytearray(file.getvalue())


def header(text: bytes, version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text


def declaring(size: int) -> bytearray:
    """An archive whose directory says that its member has this size."""
    content = archive(x=member((size,)))
    directory = content.rfind(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (size + len(member((size,)))).to_bytes(4, "little")
    return content


def encrypted() -> bytearray:
    content = archive(x=member((1,), data=b"a"))
    content[6] |= 1
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    return content


WRONG = {
    "a size that is not there": (
        archive(x=member((10**12,))),
        "array x is (1000000000000,) uint8 by its header, but has 0",
    ),
    "a negative size": (archive(x=member((-1, -1), data=b"a")), "array x is (-1, -1) uint8 by its header, but has 1"),
    "values of no size": (archive(x=member((10**12,), "<U0")), "array x is (1000000000000,) <U0 by its header"),
    "objects": (archive(x=member((1,), "|O", b".")), "array x holds pickled objects (type object)"),
    "no array": (archive(x=b"some text that is no array"), "array x has no header"),
    "an empty member": (archive(x=b""), "array x has no header"),
    "an unknown version": (archive(x=header(b"{}", version=9)), "array x has no header"),
    "a header that nests": (archive(x=header(b"(" * 9000)), "array x has no header"),
    "a header that is code": (archive(x=header(b"__import__('os').abort()\n")), "array x has no header"),
    "less data than the directory says": (declaring(10**6), "EOF: reading array data"),
    "an encrypted member": (encrypted(), "is encrypted"),
    "another file": (bytearray(b"text"), "File is not a zip file"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG.keys())
def test_is_refused_in_one_line(content: bytearray, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        npz.read(io.BytesIO(content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_without_unpacking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = 1 << 26
    bomb = archive(x=member((zeros,), data=bytes(zeros)), y=member((2,), data=b"ab"))
    assert len(bomb) < zeros / 500
    monkeypatch.setattr("echelon.core.memory.available", lambda: zeros // 2)
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"^the file needs at least 67\.1 MB of memory \(array x 67\.1 MB, array y"
        ):
            npz.read(io.BytesIO(bomb))
        assert npz.read(io.BytesIO(bomb), ["y"])["y"].tolist() == [97, 98]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_changed_byte_is_noticed_or_changes_nothing() -> None:
    written = io.BytesIO()
    np.savez_compressed(written, x=np.arange(300), y=np.array(["a", "bc"]))
    content, changed = written.getvalue(), 0
    expected = npz.read(written)
    for place in range(len(content)):
        spoilt = bytearray(content)
        spoilt[place] ^= 255
        try:
            arrays = npz.read(io.BytesIO(spoilt))
        except ValueError:
            changed += 1
            continue
        for name in expected.keys() & arrays.keys():  # a member's own name has no checksum
            np.testing.assert_array_equal(arrays[name], expected[name])
    assert changed > len(content) / 2


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array(7), np.asfortranarray(np.ones((2, 3), np.float32))])
def test_what_numpy_writes_is_read(array: np.ndarray) -> None:
    file = io.BytesIO()
    np.savez(file, x=array)
    read = npz.read(file)["x"]
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype
