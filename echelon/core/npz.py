"""Arrays from ``.npz`` files: only those asked for, each checked by its header before memory is allocated for it."""

import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from echelon.core import memory

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read(file: Path | IO[bytes], names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return arrays of an ``.npz`` file; nothing is unpickled, and other members are not unpacked.

    Parameters
    ----------
    file : Path or binary file
        As ``numpy.savez`` or ``numpy.savez_compressed`` writes it.
    names : collection of str, optional
        Arrays to read, those of them that the file has; by default all.

    Raises
    ------
    ValueError
        In one line, if the file is not a complete archive, an array's header does not match its size, an array holds
        Python objects, or the arrays do not fit into the free memory.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from echelon.core import npz
    >>> file = io.BytesIO()
    >>> np.savez(file, x=np.arange(3), y=np.zeros(2))
    >>> npz.read(file, ["x", "z"])
    {'x': array([0, 1, 2])}
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            chosen = {name: entry for name, entry in entries.items() if names is None or name in names}
            for name, entry in chosen.items():
                _check_header(archive, name, entry)
            memory.require(
                "the file", {f"array {name}": entry.file_size for name, entry in chosen.items()}, "use a smaller one"
            )
            return {name: _array(archive, entry) for name, entry in chosen.items()}
    # zipfile raises all of these: for another file, damage, an unknown compression or an encrypted member.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(str(error) or "it ends too early") from error


def _check_header(archive: zipfile.ZipFile, name: str, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as member:
        try:
            shape, _, dtype = _HEADERS[npy.read_magic(member)](member)
        # numpy evaluates the header as a Python literal.
        except (KeyError, ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
            raise ValueError(f"array {name} has no header of a .npy file of version 1 or 2") from error
        data = entry.file_size - member.tell()
    if dtype.hasobject:
        raise ValueError(f"array {name} holds pickled objects (type {dtype})")
    if min(shape, default=0) < 0 or dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != data:
        raise ValueError(f"array {name} is {shape} {dtype} by its header, but has {data} bytes of data")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as member:
        array: NDArray[Any] = npy.read_array(member, allow_pickle=False)
        member.read(1)  # at the end, zipfile compares the checksum
    return array
