"""Terminal output of a run: a live view, one plain line per round, or nothing."""

from typing import Literal

from rich.console import Console

from echelon.reports.progress.interface import Advance, Progress
from echelon.reports.progress.live import Live
from echelon.reports.progress.plain import Plain, Silent

__all__ = ["Advance", "Kind", "Progress", "make"]

Kind = Literal["auto", "live", "plain", "none"]


def make(kind: Kind, console: Console | None = None) -> Progress:
    """Return the view for a kind.

    Parameters
    ----------
    kind : {"auto", "live", "plain", "none"}
        ``auto`` selects ``live`` on a terminal and ``plain`` otherwise.
    console : rich.console.Console, optional
        Output console; that of `echelon.reports.capture.to_log` while output is captured.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    console = console or Console()
    if kind == "auto":
        kind = "live" if console.is_terminal and not console.is_dumb_terminal else "plain"
    if kind == "live":
        return Live(console)
    if kind == "plain":
        return Plain(console)
    if kind == "none":
        return Silent()
    raise ValueError(f"progress must be one of auto, live, plain, none; got {kind}")
