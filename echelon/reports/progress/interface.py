"""Interface of progress views."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

Advance = Callable[[int, int], None]


class Progress(Protocol):
    """A context manager around a whole run; methods are called in the order below, stages also between rounds."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def stage(self, description: str) -> AbstractContextManager[Advance]:
        """Show a stage while the body runs; the body may report progress with ``advance(done, total)``."""

    def start(self, total_rounds: int, workers: int) -> None:
        """Begin the rounds."""

    def round(self, record: Mapping[str, Any]) -> None:
        """Show a finished round: a record as in ``metrics.jsonl``."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Show the result of the run: a mapping as in ``summary.json``."""
