"""Comparisons and metrics as tables on the terminal and in CSV."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from echelon.core.printable import printable
from echelon.reports.comparison import Comparison
from echelon.reports.run_folder import Record, RunFolder

# How a formula begins, in one of the spreadsheets.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
_NUMBER = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")


def comparison_table(comparison: Comparison) -> Table:
    """Return a comparison as a table for the terminal: one row per quantity, one column per group."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for group in comparison.groups:
        mark = " (baseline)" if group is comparison.baseline and len(comparison.groups) > 1 else ""
        # A Text, because a label may contain what looks like rich's markup.
        table.add_column(Text(f"{group.label}{mark}"), justify="right", overflow="fold")
    table.add_row("Runs", *(str(len(group.runs)) for group in comparison.groups))
    for j, column in enumerate(comparison.columns):
        table.add_row(column.heading, *(column.write(row[j]) for row in comparison.cells))
    return table


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison as CSV: mean, standard deviation and number of runs with a value, per group and quantity."""
    rows: list[Record] = []
    for group, cells in zip(comparison.groups, comparison.cells, strict=True):
        row: Record = {"group": group.label, "runs": len(group.runs)}
        for column, cell in zip(comparison.columns, cells, strict=True):
            heading = column.heading
            count = sum(value is not None for value in cell.values)
            row |= {f"{heading} mean": _scaled(cell.mean, column.scale)}
            row |= {f"{heading} std": _scaled(cell.deviation, column.scale), f"{heading} runs": count}
        rows.append(row)
    write_csv(rows, path)


def write_metrics(runs: Sequence[RunFolder], path: Path) -> None:
    """Write the records of runs as CSV: one row per run and round, with lists by rank as columns ``name[rank]``.

    Other nested values (edges, rejections) are omitted.
    """
    write_csv([{"run": str(run.path), **_columns(record)} for run in runs for record in run.metrics], path)


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows that may have different keys; missing and None values become empty fields.

    A text that a spreadsheet would take for a formula gets an apostrophe in front; numbers stay numbers.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([_cell(key) for key in keys])
        writer.writerows([_cell(row.get(key)) for key in keys] for row in rows)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _columns(record: Record) -> Record:
    columns: Record = {}
    for key, value in record.items():
        if key == "present":
            columns[key] = len(value)
        elif isinstance(value, list):
            columns |= {f"{key}[{rank}]": item for rank, item in enumerate(value) if not _is_nested(item)}
        elif not _is_nested(value):
            columns[key] = value
    return columns


def _is_nested(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)
