"""Progress on a terminal: a view that is redrawn in place once a second."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich import live, progress
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from echelon.reports import text
from echelon.reports.progress.interface import Advance
from echelon.reports.progress.plain import summary_table
from echelon.reports.progress.workers import worker_lines

# A redraw with 64 workers takes 10 CPU-ms; a higher rate would cost more than one per cent.
_REDRAWS_PER_SECOND = 1
_SPARK = "▁▂▃▄▅▆▇█"


class Live:
    """Stages as spinners; rounds as totals above one line per worker.

    Parameters
    ----------
    console : rich.console.Console
        A terminal. No other output may go to it meanwhile: see `echelon.reports.capture.to_log`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        # Other output goes to the log; redirecting it here would show it on the terminal.
        self._live = live.Live(
            self, console=console, refresh_per_second=_REDRAWS_PER_SECOND, redirect_stdout=False, redirect_stderr=False
        )
        self._stages = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=20),
            progress.TimeElapsedColumn(),
            console=console,
        )
        self._total_rounds = 0
        self._workers = 0
        self._began = 0.0
        self._received = 0.0
        self._record: Mapping[str, Any] | None = None
        self._evaluated: Mapping[str, Any] = {}
        self._losses: list[float | None] = []
        self._accuracies: list[float | None] = []

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    @contextmanager
    def stage(self, description: str) -> Iterator[Advance]:
        """Show a spinner, and a bar once the body reports progress; finally print one line."""
        start = time.monotonic()
        task = self._stages.add_task(description, total=None)
        self._live.refresh()
        mark = "[red]✗[/]"
        try:
            yield lambda done, total: self._stages.update(task, completed=done, total=total)
            mark = "[green]✓[/]"
        finally:
            self._stages.remove_task(task)
            if not self._losses:  # exclude preparation from the time per round
                self._began = time.monotonic()
            self._console.print(f"{mark} {description} [dim]{time.monotonic() - start:.1f} s[/]", highlight=False)

    def start(self, total_rounds: int, workers: int) -> None:
        """Show the totals before the first round."""
        self._total_rounds, self._workers = total_rounds, workers
        self._began = time.monotonic()
        self._live.refresh()

    def round(self, record: Mapping[str, Any]) -> None:
        """Store the record for the next redraw."""
        self._losses.append(record.get("train_loss"))
        if record.get("consensus_accuracy") is not None:
            self._evaluated = record
            self._accuracies.append(record["consensus_accuracy"])
        self._record, self._received = record, time.monotonic()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Keep the view of the last round and print the summary table below it."""
        self._live.stop()
        self._console.print(summary_table(summary))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the current state."""
        if self._stages.tasks:
            yield self._stages.get_renderable()
        if self._total_rounds and (self._record is not None or not self._stages.tasks):
            yield self._head(options.max_width)
        if self._record is not None:
            yield from self._numbers(self._record, options.max_width)
            lines = console.height - 6 - len(self._stages.tasks)
            yield from worker_lines(self._record, self._workers, lines, options.max_width)

    def _head(self, width: int) -> Table:
        done = 0 if self._record is None else int(self._record["round"])
        head = Table.grid(padding=(0, 2))
        rounds_here = len(self._losses)
        left = (time.monotonic() - self._began) / rounds_here * (self._total_rounds - done) if rounds_here else None
        head.add_row(
            Text(f"Round {done}/{self._total_rounds}", style="bold"),
            ProgressBar(total=self._total_rounds, completed=done, width=max(10, min(40, width - 50))),
            f"wall {text.seconds(self._wall_seconds(done))}",
            f"left {text.seconds(left)}",
        )
        return head

    def _wall_seconds(self, done: int) -> float:
        """Return the wall time of the whole run, as its records count it, until now or its last round."""
        if self._record is None:
            return time.monotonic() - self._began
        since = time.monotonic() - self._received if done < self._total_rounds else 0.0
        return float(self._record.get("wall_seconds") or 0.0) + since

    def _numbers(self, record: Mapping[str, Any], width: int) -> Iterator[Text]:
        spark = max(8, min(24, (width - 64) // 2))
        loss = Text.assemble("Loss ", (text.number(record.get("train_loss")), "bold"))
        loss.append(f" {_spark(self._losses, spark)}")
        if self._evaluated:
            workers = [value for value in self._evaluated.get("worker_accuracy", ()) if value is not None]
            loss.append("   Accuracy ")
            loss.append(text.percent(self._evaluated["consensus_accuracy"]), style="bold")
            loss.append(f" {_spark(self._accuracies, spark)}")
            if workers:
                loss.append(f"  workers {text.percent(min(workers))} to {text.percent(max(workers))}")
        yield loss
        yield Text(
            f"Virtual time {text.seconds(record.get('virtual_seconds'))}   "
            f"consensus distance {text.number(record.get('consensus_distance'), 3)}   "
            f"up {text.size(record.get('uplink_bytes'))}   down {text.size(record.get('downlink_bytes'))}",
            style="dim",
        )


def _spark(values: list[float | None], width: int) -> str:
    """Return a sparkline of the values of at most `width` characters."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    if len(known) > width:
        known = [known[round(k * (len(known) - 1) / (width - 1))] for k in range(width)]
    low, span = min(known), max(known) - min(known)
    return "".join(_SPARK[round((value - low) / span * 7) if span else 0] for value in known)
