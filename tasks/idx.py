"""The idx format of MNIST and related data sets, plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from echelon.core import memory


def find_idx(folder: Path, stem: str) -> Path | None:
    """Return `<folder>/<stem>-ubyte`, else `<folder>/<stem>-ubyte.gz`, else None."""
    names = (f"{stem}-ubyte", f"{stem}-ubyte.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read a file of unsigned bytes: 0, 0, 8, number of sizes, the sizes (big-endian uint32), the values.

    Returns
    -------
    Tensor
        uint8, with `dimensions` dimensions.

    Raises
    ------
    ValueError
        If the file is damaged or not an idx file.
    """
    damaged = f"task.root: {path} must be a complete idx file of {dimensions}-dimensional bytes"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            if file.read(4) != bytes((0, 0, 8, dimensions)):
                raise ValueError(damaged)
            sizes = [int.from_bytes(file.read(4), "big") for _ in range(dimensions)]
            count = math.prod(sizes)
            memory.require(f"task.root: {path}", {"values": 2 * count}, "use a smaller data set")
            values = bytearray(file.read(count + 1))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"task.root: {path} must be a complete gzip file; got: {error}") from error
    if not count or len(values) != count:
        raise ValueError(damaged)
    return torch.frombuffer(values, dtype=torch.uint8).reshape(sizes)
