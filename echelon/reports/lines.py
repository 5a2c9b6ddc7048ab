"""Values as JSON: a line of ``metrics.jsonl`` per record."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

# Of numbers by rank: with more, the line of a round would be longer than 100 bytes per worker.
_DIGITS = 6


def line(record: Mapping[str, Any]) -> str:
    r"""Return a record as a line of JSON; numbers in lists have six significant digits, NaN and infinities are null.

    Examples
    --------
    >>> from echelon.reports.lines import line
    >>> line({"round": 1, "train_loss_per_worker": [2.2889842987060547, float("nan")]})
    '{"round":1,"train_loss_per_worker":[2.28898,null]}\n'
    """
    return json.dumps(_shortened(plain(record)), allow_nan=False, separators=(",", ":")) + "\n"


def plain(value: Any) -> Any:
    """Convert a value to JSON types; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _shortened(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(map(_short, value)) if isinstance(value, list) else value for key, value in record.items()}


def _short(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
