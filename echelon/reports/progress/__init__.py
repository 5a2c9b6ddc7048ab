"""What a run shows on the terminal: a live view, one plain line per round, or nothing."""

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
        ``auto`` is ``live`` on a terminal and ``plain`` elsewhere.
    console : rich.console.Console, optional
        Where to write; the one of `echelon.reports.capture.to_log` while output is being caught.

    Raises
    ------
    ValueError
        If there is no such kind.
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
