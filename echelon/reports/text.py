"""Formatting of numbers and records for the terminal, tables and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


def number(value: float | None, digits: int = 4) -> str:
    """Format a number with `digits` significant digits; a dash if missing."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:#.{digits}g}"


def percent(share: float | None) -> str:
    """Format a fraction as a percentage with one decimal."""
    return "–" if share is None else f"{100 * share:.1f} %"


def seconds(value: float | None) -> str:
    """Format seconds in s, min or h."""
    if value is None:
        return "–"
    if value < 600:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    if value < 36_000:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def size(count: float | None) -> str:
    """Format a number of bytes in decimal units."""
    if count is None:
        return "–"
    for unit in _BYTE_UNITS:
        if abs(count) < 1000 or unit == _BYTE_UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"


def mean(values: Sequence[float | None] | None) -> float | None:
    """Return the mean of the values that are not None, or None if there are none."""
    known = [value for value in values or () if value is not None]
    return sum(known) / len(known) if known else None


def round_line(record: Mapping[str, Any], total_rounds: int, workers: int) -> str:
    """Format the record of a round (as in ``metrics.jsonl``) as one line."""
    width = len(str(total_rounds))
    parts = [
        f"round {record['round']:>{width}}/{total_rounds}",
        f"virtual {seconds(record.get('virtual_seconds'))}",
        f"wall {seconds(record.get('wall_seconds'))}",
        f"loss {number(record.get('train_loss'))}",
    ]
    if record.get("consensus_accuracy") is not None:
        parts.append(f"accuracy {percent(record['consensus_accuracy'])}")
    if "minibatches" in record:
        done = sum(count or 0 for count in record["minibatches"])
        target = sum(count or 0 for count in record.get("target_minibatches", ()))
        parts.append(f"mini-batches {done}" + (f"/{target}" if target else ""))
    if record.get("idle_share"):
        parts.append(f"idle {percent(mean(record['idle_share']))}")
    parts.append(f"present {len(record.get('present', ()))}/{workers}")
    if record.get("rejected"):
        parts.append(f"rejected {record['rejected']}")
    return "  ".join(parts)


def thin_rounds(summary: Mapping[str, Any]) -> str:
    """Format how many rounds had fewer than half of the workers, and how many attempts at rounds had none."""
    empty = summary.get("empty_attempts")
    return number(summary.get("thin_rounds")) + (f" (attempts without any worker: {empty})" if empty else "")


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a summary (as in ``summary.json``) as pairs of name and value."""
    low, high = summary.get("worker_accuracy_min"), summary.get("worker_accuracy_max")
    workers = percent(summary.get("worker_accuracy_mean"))
    if low is not None and high is not None:
        workers += f" ({percent(low)} to {percent(high)})"
    return [
        ("Rounds", number(summary.get("rounds"))),
        ("Thin rounds", thin_rounds(summary)),
        ("Virtual time", seconds(summary.get("virtual_seconds"))),
        ("Wall time", seconds(summary.get("wall_seconds"))),
        ("Consensus accuracy", percent(summary.get("consensus_accuracy"))),
        ("Workers' accuracy", workers),
        ("Training loss", number(summary.get("train_loss"))),
        ("Samples", number(summary.get("samples"))),
    ]
