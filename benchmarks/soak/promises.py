"""What is promised of a run folder after a fault; each check returns what is wrong, or an empty string."""

import json
from pathlib import Path
from typing import Any

from echelon.server import checkpoint


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a run's metrics, without what the wall clock told."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: value for name, value in record.items() if name != "wall_seconds"} for record in found]


def every_round_once(folder: Path, rounds: int | None = None) -> str:
    """Check that the rounds are 1, 2, 3, ... in this order; and that there are so many, if ``rounds`` is given."""
    numbers = [record["round"] for record in records(folder)]
    if numbers != list(range(1, len(numbers) + 1)):
        wrong = next(place for place, number in enumerate(numbers, 1) if place != number)
        return f"round {wrong} is missing or there twice: line {wrong} is of round {numbers[wrong - 1]}"
    if rounds is not None and len(numbers) != rounds:
        return f"{len(numbers)} of {rounds} rounds"
    return ""


def same_bits(folder: Path, whole: Path) -> str:
    """Check that a run ended as an undisturbed one: equal records, models and optimiser states."""
    found, expected = records(folder), records(whole)
    if wrong := every_round_once(folder, len(expected)):
        return wrong
    for one, other in zip(found, expected, strict=True):
        differing = sorted(
            name for name in one.keys() | other.keys() if json.dumps(one.get(name)) != json.dumps(other.get(name))
        )
        if differing:
            return f"round {one['round']} has another {differing[0]}"
    try:
        mine, theirs = (checkpoint.load(path / "checkpoint") for path in (folder, whole))
    except checkpoint.CheckpointError as error:
        return str(error)
    for name in ("rows", "exact", "momentum", "optimizer", "cursors"):
        one, other = getattr(mine, name), getattr(theirs, name)
        if (one is None) != (other is None) or (one is not None and one.tobytes() != other.tobytes()):
            return f"the checkpoint has other {name}"
    return "" if (folder / "summary.json").exists() else "there is no summary.json"
