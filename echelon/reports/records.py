"""What the views rely on in a run's files: types and lengths, checked when a file is read."""

from collections.abc import Callable, Mapping
from typing import Any

from echelon.core.printable import printable

_SCALARS = (
    *("round_seconds", "wall_seconds", "budget_seconds", "train_loss", "consensus_accuracy", "consensus_loss"),
    *("consensus_distance", "mean_drift", "uplink_bytes", "downlink_bytes", "rejected"),
)
_BY_RANK = (
    *("minibatches", "target_minibatches", "samples", "compute_seconds", "dropped_seconds", "communication_seconds"),
    *("idle_share", "train_loss_per_worker", "peer_bytes"),
)
_LISTS = ("worker_accuracy", "worker_loss")
_LEADERS = ("leaders_best", "leaders_degree")
BY_RANK = (*_BY_RANK, *_LISTS, *_LEADERS)
_SUMMARY = (
    *("rounds", "virtual_seconds", "wall_seconds", "consensus_accuracy", "train_loss", "samples"),
    *("worker_accuracy_mean", "worker_accuracy_min", "worker_accuracy_max"),
)
_MOST_CLASSES = 10_000
_LARGEST = 1e100  # sums and squares of larger numbers are infinite


def check_round(record: Mapping[str, Any], workers: int | None = None) -> int:
    """Return the number of workers of a round's record, as in ``metrics.jsonl``.

    Raises
    ------
    ValueError
        Naming the first field that the views could not show; fields that they do not use are not checked.
    """
    counts = record["minibatches"]
    if not isinstance(counts, list) or not counts:
        raise ValueError(_must("minibatches", "a list with a number per worker", counts))
    size = workers or len(counts)
    _check("round", "an integer, at least 1", record, lambda value: _is_number(value) and value >= 1 and value % 1 == 0)
    _check("virtual_seconds", "a number, at least 0", record, lambda value: _is_number(value) and value >= 0)
    for key in _SCALARS:
        _check(key, "a number or null", record, _is_number_or_null)
    for key in _BY_RANK:
        _check(key, f"a list of {size} numbers or nulls", record, lambda value: _is_by_rank(value, size))
    for key in _LISTS:
        _check(key, "a list of numbers or nulls", record, lambda value: _is_list(value, _is_number_or_null))
    for key in _LEADERS:
        meaning = f"a list of {size} ranks or nulls"
        _check(
            key, meaning, record, lambda value: value is None or (_are_ranks(value, size, True) and len(value) == size)
        )
    _check("present", "a list of ranks", record, lambda value: _are_ranks(value, size))
    _check(
        "edges",
        "a list of pairs of ranks, complete or null",
        record,
        lambda value: (
            value in (None, "complete") or _is_list(value, lambda edge: _are_ranks(edge, size) and len(edge) == 2)
        ),
    )
    _check("rejections", "a mapping", record, lambda value: value is None or isinstance(value, dict))
    return size


def check_summary(summary: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, if a summary holds something else than numbers and nulls."""
    for key in _SUMMARY:
        _check(key, "a number or null", summary, _is_number_or_null)


def check_partition(partition: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, if the description of a partition is none."""
    sizes = partition.get("sizes")
    if not _is_list(sizes, _is_number) or not sizes:
        raise ValueError(_must("sizes", "a list of numbers", sizes))
    counts = partition.get("class_counts")
    if counts is not None and not (
        _is_list(counts, lambda row: _is_list(row, _is_number) and 0 < len(row) == len(counts[0]))
        and len(counts) == len(sizes)
    ):
        raise ValueError(_must("class_counts", f"{len(sizes)} lists of numbers of equal length", counts))
    quality = partition.get("quality")
    projection = quality.get("projection") if isinstance(quality, dict) else None
    if projection is not None and not _is_projection(projection, len(sizes)):
        meaning = "equally long lists: numbers x and y, rank and class"
        raise ValueError(_must("quality.projection", meaning, projection))


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the key, if the rounds or workers of a configuration are no integers."""
    for key in ("rounds", "workers"):
        _check(key, "an integer", config, lambda value: isinstance(value, int) and _is_number(value))


def printable_values(value: Any) -> Any:
    """Return a nested value whose texts, also as keys, can be printed."""
    if isinstance(value, dict):
        return {printable(str(key)): printable_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable_values(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def _check(key: str, meaning: str, record: Mapping[str, Any], holds: Callable[[Any], bool]) -> None:
    if key in record and not holds(record[key]):
        raise ValueError(_must(key, meaning, record[key]))


def _must(key: str, meaning: str, value: Any) -> str:
    shown = printable(repr(value))
    return f"{key} must be {meaning}; got {shown if len(shown) <= 40 else f'{shown[:40]}...'}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_number_or_null(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_list(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(holds, value))


def _is_by_rank(value: Any, size: int) -> bool:
    return _is_list(value, _is_number_or_null) and len(value) == size


def _are_ranks(value: Any, size: int, null: bool = False) -> bool:
    return _is_list(value, lambda rank: (null and rank is None) or (type(rank) is int and 0 <= rank < size))


def _is_projection(value: Any, workers: int) -> bool:
    lists = [value.get(key) for key in ("x", "y", "rank", "class")] if isinstance(value, dict) else []
    lengths = {len(numbers) if isinstance(numbers, list) else 0 for numbers in lists}
    if len(lengths) != 1 or 0 in lengths:
        return False
    x, y, rank, label = lists
    are_points = _is_list(x, _is_number) and _is_list(y, _is_number)
    return are_points and _are_ranks(rank, workers) and _are_ranks(label, _MOST_CLASSES)
