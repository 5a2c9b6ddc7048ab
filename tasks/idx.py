"""The idx format of MNIST and related data sets, plain or gzipped."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


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
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"task.root: {path} must be a complete gzip file; got: {error}") from error
    start = 4 + 4 * dimensions
    sizes = np.frombuffer(content[4:start].ljust(start - 4), dtype=">u4").tolist()
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != start + np.prod(sizes, dtype=np.int64):
        raise ValueError(f"task.root: {path} must be a complete idx file of {dimensions}-dimensional bytes")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(sizes)
