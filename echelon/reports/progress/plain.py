"""Progress for logs and pipes: one line per stage and round, or no output."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from echelon.reports import text
from echelon.reports.progress.interface import Advance


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    @contextmanager
    def stage(self, description: str) -> Iterator[Advance]:
        """Run the body."""
        yield lambda done, total: None

    def start(self, total_rounds: int, workers: int) -> None:
        """Do nothing."""

    def round(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


class Plain(Silent):
    """One line per stage and per round.

    Parameters
    ----------
    console : rich.console.Console
        Output console.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total_rounds = 0
        self._workers = 0

    @contextmanager
    def stage(self, description: str) -> Iterator[Advance]:
        """Print a line at the start of the stage, and its duration at the end."""
        self._print(f"{description} ...")
        start = time.monotonic()
        outcome = "failed"
        try:
            yield lambda done, total: None
            outcome = "done"
        finally:
            self._print(f"{description}: {outcome} after {time.monotonic() - start:.1f} s")

    def start(self, total_rounds: int, workers: int) -> None:
        """Store the totals."""
        self._total_rounds, self._workers = total_rounds, workers

    def round(self, record: Mapping[str, Any]) -> None:
        """Print the round's line."""
        self._print(text.round_line(record, self._total_rounds, self._workers))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Print the summary table."""
        self._console.print(summary_table(summary))

    def _print(self, line: str) -> None:
        self._console.out(line, highlight=False)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the result of a run as a table with one row per quantity."""
    table = Table(show_header=False)
    for name, value in text.summary_rows(summary):
        table.add_row(name, value)
    return table
