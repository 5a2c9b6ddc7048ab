"""The worker lines of the live view, with a summary of those that do not fit."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from echelon.core.printable import printable
from echelon.reports import text
from echelon.reports.leaders import followers

_STATE_STYLES = {"present": "green", "absent": "dim", "rejected": "bold red"}
_REASONS, _LINES = 2, 3  # shown, and of each
STATE_MARKS = {"present": "●", "absent": "○", "rejected": "✗"}


def worker_lines(record: Mapping[str, Any], workers: int, lines: int, width: int) -> Iterator[Text]:
    """Yield a header, one line per worker that fits, and a summary line for the others.

    Columns have a fixed width, because measuring them at every redraw would dominate the cost of reporting.

    Parameters
    ----------
    record : mapping
        The round, as in ``metrics.jsonl``.
    workers : int
        Number of workers.
    lines : int
        Available lines of the terminal.
    width : int
        Columns of the terminal.
    """
    marks = bool(record.get("leaders_best") or record.get("leaders_degree"))
    why = list(_reasons(record, workers, width))
    lines -= 1 + marks + len(why)
    shown = workers if workers <= lines else max(1, lines - 1)
    bar = 12 if width < 100 else 24
    leads = f"{'Leads':9}" if marks else ""
    yield _line(f"Rank  {'Mini-batches':{bar + 8}}   Idle     Loss  {leads}State", style="bold")
    best, degree = followers(record)
    for rank in range(shown):
        line = _line(f"{rank:4d}  ")
        line.append_text(_batches(at(record, "minibatches", rank), at(record, "target_minibatches", rank), bar))
        idle, loss = at(record, "idle_share", rank), at(record, "train_loss_per_worker", rank)
        line.append(f"{text.percent(idle):>7}  {text.number(loss):>7}  ")
        if marks:
            line.append(f"{_lead_marks(best[rank], degree[rank]):9}", "yellow")
        line.append_text(_state_text(record, rank))
        yield line
    if shown < workers:
        yield _others(record, range(shown, workers))
    yield from why
    if marks:
        yield _line("★ leader by loss, ◆ leader by degree (number of followers)", style="dim")


def state(record: Mapping[str, Any], rank: int) -> str:
    """Return the state of a worker in this round: present, absent or rejected."""
    if rank in record.get("present", ()):
        return "present"
    return "absent" if reason(record, rank) is None else "rejected"


def reason(record: Mapping[str, Any], rank: int) -> str | None:
    """Return why a worker's reply was rejected in this round, or None."""
    rejections = record.get("rejections") or {}
    reason = rejections.get(rank, rejections.get(str(rank)))
    return None if reason is None else printable(str(reason))


def at(record: Mapping[str, Any], key: str, rank: int) -> Any:
    """Return a worker's entry of a list by rank, or None."""
    values: Sequence[Any] = record.get(key) or ()
    return values[rank] if rank < len(values) else None


def _batches(done: int | None, target: int | None, width: int) -> Text:
    if done is None or not target:
        return Text(f"{'–' if done is None else done:<{width + 8}}", style="dim")
    full = min(width, round(width * done / target))
    return Text.assemble(("━" * full, "cyan"), ("─" * (width - full), "dim"), f" {f'{done}/{target}':7}")


def _lead_marks(best: int, degree: int) -> str:
    return " ".join(f"{mark}{count}" for mark, count in (("★", best), ("◆", degree)) if count)


def _state_text(record: Mapping[str, Any], rank: int) -> Text:
    name = state(record, rank)
    line = f"{STATE_MARKS[name]} {name}"
    if rank in record.get("whole_rounds", ()):
        line += ", does whole rounds"
    return Text(line, style=_STATE_STYLES[name])


def _reasons(record: Mapping[str, Any], workers: int, width: int) -> Iterator[Text]:
    """Yield why workers were rejected, wrapped at words, each reason with the ranks it is given for."""
    ranks: dict[str, list[int]] = {}
    for rank in range(workers):
        if state(record, rank) == "rejected":
            ranks.setdefault(reason(record, rank) or "", []).append(rank)
    for why, those in list(ranks.items())[:_REASONS]:
        named = f"rank{'s' * (len(those) > 1)} {', '.join(map(str, those[:8]))}" + (" …" if len(those) > 8 else "")
        for line in textwrap.wrap(
            f"{STATE_MARKS['rejected']} {named}: {why}",
            width,
            subsequent_indent="  ",
            max_lines=_LINES,
            placeholder=" …",
        ):
            yield _line(line, _STATE_STYLES["rejected"])


def _others(record: Mapping[str, Any], ranks: range) -> Text:
    """Return a summary line of several workers that names those not present."""
    batches = [count for rank in ranks if (count := at(record, "minibatches", rank)) is not None]
    missing = [rank for rank in ranks if state(record, rank) != "present"]
    line = f"… and {len(ranks)} more: "
    if batches:
        line += f"{min(batches)} to {max(batches)} mini-batches, "
    line += f"idle {text.percent(text.mean([at(record, 'idle_share', rank) for rank in ranks]))}"
    if missing:
        line += f", not present: {', '.join(map(str, missing[:8]))}" + (" …" if len(missing) > 8 else "")
    return _line(line)


def _line(line: str, style: str = "") -> Text:
    return Text(line, style=style, no_wrap=True, overflow="ellipsis")
