"""The live page of a run: its state, workers and rounds as parts that the browser exchanges one by one."""

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from echelon.core.printable import printable
from echelon.reports import figures, page, series, text
from echelon.reports.progress.workers import STATE_MARKS, at, reason, state
from echelon.reports.run_folder import Record, RunFolder
from echelon.reports.run_groups import flatten

_ROUNDS = 20  # shown, the last one first
_TEXT = ' class="text"'


def render(title: str, shown: Mapping[str, str]) -> str:
    """Return the page with these parts, which refresh themselves from the server that it comes from."""
    main = page.fill("live.html", shown)
    return page.document(title, main, ["live.js"], "img-src 'self' data:; connect-src 'self'")


def message(line: str) -> dict[str, str]:
    """Return the parts that say why there is no run to be shown, instead of those of a run."""
    return dict.fromkeys(_PARTS, "") | {"state": escape(printable(line))}


def parts(run: RunFolder, drawn: str) -> dict[str, str]:
    """Return the HTML of every part of a run, by the id of its element.

    Parameters
    ----------
    run : RunFolder
        Finished or not, with or without a round.
    drawn : str
        Changes when the figures are to be loaded again.
    """
    rounds, config = run.metrics, flatten(run.config)
    last = rounds[-1] if rounds else None
    named = figures.names(run) if drawn else ()
    images = [page.figure(f"figures/{name}.svg?{drawn}", figures.CAPTIONS[name]) for name in named]
    return {
        "title": escape(printable(str(run.path))),
        "state": _state(run),
        "numbers": _numbers(rounds),
        "workers": "" if last is None else _workers(rounds, last),
        "rounds": _rounds(rounds),
        "figures": page.lines(images),
        "choices": page.choices(config),
        "keys": page.keys(config),
    }


_PARTS = ("title", "state", "numbers", "workers", "rounds", "figures", "choices", "keys")


def _state(run: RunFolder) -> str:
    total = run.config.get("rounds", "?")
    done = f"{len(run.metrics)} of {escape(str(total))} rounds"
    if run.finished:
        return f"<strong>Finished</strong> after {done}"
    since = time.time() - (run.path / "metrics.jsonl").stat().st_mtime
    if not run.metrics:
        return f"<strong>Preparing</strong>: the first round has not ended; started {_ago(since)}"
    return f"<strong>Running</strong>: {done}; the last one ended {_ago(since)}"


def _ago(seconds: float) -> str:
    """Return a duration in steps of five seconds, so that the page does not change at every look."""
    return "just now" if seconds < 5 else f"{text.seconds(5 * int(seconds // 5))} ago"


def _numbers(rounds: Sequence[Record]) -> str:
    last: Mapping[str, Any] = rounds[-1] if rounds else {}
    evaluated = series.evaluated(rounds)
    shown = {
        "Training loss": text.number(last.get("train_loss")),
        "Consensus accuracy": text.percent(evaluated[-1]["consensus_accuracy"] if evaluated else None),
        "Virtual time": text.seconds(last.get("virtual_seconds")),
        "Wall time": text.seconds(last.get("wall_seconds")),
        "Idle": text.percent(text.mean(last.get("idle_share"))),
    }
    return "".join(f"<div><span>{name}</span><strong>{value}</strong></div>" for name, value in shown.items())


def _workers(rounds: Sequence[Record], last: Record) -> str:
    heads = ("Rank", "State", "Mini-batches", "", "All rounds", "Computing", "Communicating", "Idle", "Loss", "Absent")
    rows = []
    for rank in range(len(last["minibatches"])):
        name = state(last, rank)
        why = reason(last, rank)
        label = f"{STATE_MARKS[name]} {name}" + (f": {escape(why)}" if name == "rejected" and why else "")
        done, target = at(last, "minibatches", rank), at(last, "target_minibatches", rank)
        total = sum(at(record, "minibatches", rank) or 0 for record in rounds)
        cells = [
            f'<td class="text {name}">{label}</td>',
            f"<td>{_share(done, target)}</td>",
            f"<td>{_meter(done, target)}</td>",
            f"<td>{total}</td>",
            f"<td>{text.seconds(at(last, 'compute_seconds', rank))}</td>",
            f"<td>{text.seconds(at(last, 'communication_seconds', rank))}</td>",
            f"<td>{text.percent(at(last, 'idle_share', rank))}</td>",
            f"<td>{text.number(at(last, 'train_loss_per_worker', rank))}</td>",
            f"<td>{sum(state(record, rank) != 'present' for record in rounds)} rounds</td>",
        ]
        rows.append(f'<tr><th scope="row">{rank}</th>{"".join(cells)}</tr>')
    return _table(heads, rows)


def _share(done: int | None, target: int | None) -> str:
    return text.number(done) + (f" of {target}" if target else "")


def _meter(done: int | None, target: int | None) -> str:
    return f'<meter min="0" max="{target}" value="{done}"></meter>' if done is not None and target else ""


def _rounds(rounds: Sequence[Record]) -> str:
    heads = ("Round", "Seconds", "Virtual time", "Wall time", "Loss", "Accuracy", "Mini-batches", "Idle", "Present")
    rows = []
    lengths = series.round_seconds(rounds) if rounds else ()
    for record, length in list(zip(rounds, lengths, strict=True))[: -_ROUNDS - 1 : -1]:
        cells = (
            text.seconds(float(length)),
            text.seconds(record["virtual_seconds"]),
            text.seconds(record.get("wall_seconds")),
            text.number(record.get("train_loss")),
            text.percent(record.get("consensus_accuracy")),
            str(sum(count or 0 for count in record["minibatches"])),
            text.percent(text.mean(record.get("idle_share"))),
            f"{len(record.get('present', ()))} of {len(record['minibatches'])}",
        )
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{record["round"]}</th>{numbers}</tr>')
    return _table(heads, rows) if rows else ""


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col"{_TEXT if name == "State" else ""}>{name}</th>' for name in heads)
    return f"<thead><tr>{head}</tr></thead>\n<tbody>\n{page.lines(rows)}\n</tbody>"
