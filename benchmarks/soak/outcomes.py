"""The outcome of every fault tried: a file that a later soak adds to, and the table of docs/security.md."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """One fault and what came of it.

    Attributes
    ----------
    target : str
        What it was done to: a name in :data:`benchmarks.soak.targets.TARGETS`.
    seed, number : int
        The fault is drawn from these two and the target.
    fault : str
        Its kind.
    moment : float
        Seconds after the start of what was hit, or after the fault before.
    lost : str
        Which promise was broken; empty if all were kept.
    """

    target: str
    seed: int
    number: int
    fault: str
    moment: float
    lost: str


def load(path: Path) -> list[Outcome]:
    """Return the outcomes in a file; none if it does not exist."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def append(path: Path, outcome: Outcome) -> None:
    """Add an outcome to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{json.dumps(asdict(outcome))}\n")


def table(outcomes: Iterable[Outcome]) -> str:
    """Return a Markdown table of the faults tried, held and lost."""
    tried: Counter[tuple[str, str]] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        tried[outcome.target, outcome.fault] += 1
        lost[outcome.target, outcome.fault] += bool(outcome.lost)
    rows = [f"| {' | '.join(key)} | {tried[key]} | {tried[key] - lost[key]} | {lost[key]} |" for key in sorted(tried)]
    total = f"| all | | {tried.total()} | {tried.total() - lost.total()} | {lost.total()} |"
    return "\n".join(["| target | fault | tried | held | lost |", "|---|---|---|---|---|", *rows, total])
