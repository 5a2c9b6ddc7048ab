"""Records of a run as arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from echelon.reports.run_folder import Record

Array = npt.NDArray[np.float64]


def scalars(records: Sequence[Record], key: str) -> Array:
    """Return one value per record, shape (T,); NaN if missing."""
    return np.array([_number(record.get(key)) for record in records], dtype=np.float64)


def by_rank(records: Sequence[Record], key: str, workers: int) -> Array:
    """Return one value per record and rank, shape (T, N); NaN if missing."""
    rows = [[_number(value) for value in record.get(key) or [None] * workers] for record in records]
    return np.array(rows, dtype=np.float64).reshape(len(records), workers)


def evaluated(records: Sequence[Record]) -> list[Record]:
    """Return the records of the rounds in which models were evaluated."""
    return [record for record in records if record.get("consensus_accuracy") is not None]


def worker_count(records: Sequence[Record]) -> int:
    """Return the number of workers."""
    return len(records[0]["minibatches"])


def round_seconds(records: Sequence[Record]) -> Array:
    """Return the length of every round on the virtual axis in seconds, shape (T,)."""
    return np.diff(scalars(records, "virtual_seconds"), prepend=0.0)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
