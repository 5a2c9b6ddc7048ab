"""Rounds that nobody takes part in are attempted again, up to a limit; those with few workers are counted."""

from collections.abc import Callable
from logging import WARNING
from typing import Any

from flwr.supercore import log


class AllWorkersFailedError(RuntimeError):
    """A round in which no worker returned a usable model."""


class Rounds:
    """Completes rounds, and counts the thin ones (fewer than half of the workers) and the attempts that were in vain.

    Parameters
    ----------
    max_empty : int
        Attempts in a row without a usable reply after which a run fails.

    Raises
    ------
    ValueError
        If ``max_empty`` is less than 1.
    """

    def __init__(self, max_empty: int) -> None:
        if max_empty < 1:
            raise ValueError(f"work.max_empty_rounds must be at least 1; got {max_empty}")
        self.max_empty = max_empty
        self.done = self.thin = self.empty = 0

    def complete(
        self, server_round: int, wait: Callable[[], bool], attempt: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Attempt a round until a worker has taken part.

        Parameters
        ----------
        server_round : int
            Its number.
        wait : callable
            Waits for a worker to begin with; False if there was none in time.
        attempt : callable
            Does the round and returns its record.

        Returns
        -------
        dict
            The record; ``empty_attempts`` in it says how often the round was attempted in vain.

        Raises
        ------
        AllWorkersFailedError
            With the reason, if no attempt brings a usable reply.
        """
        failure = f"round {server_round}: no worker replied in time"
        for empty in range(self.max_empty):
            try:
                if wait():
                    return self._counted(attempt() | {"empty_attempts": empty})
            except AllWorkersFailedError as error:
                failure = str(error)
            self.empty += 1
            log(WARNING, "%s; attempt %s of %s", failure, empty + 1, self.max_empty)
        often = f"; {self.max_empty} attempts in a row" if self.max_empty > 1 else ""
        raise AllWorkersFailedError(f"{failure}{often}")

    def log_outcome(self) -> None:
        """Log how many rounds were thin and how many attempts were in vain, if any."""
        if self.thin or self.empty:
            log(
                WARNING,
                "%s of %s rounds were thin (fewer than half of the workers); %s attempts brought no usable reply",
                self.thin,
                self.done,
                self.empty,
            )

    def _counted(self, record: dict[str, Any]) -> dict[str, Any]:
        self.done += 1
        if record["thin"]:
            self.thin += 1
            if self.thin == 1:
                log(WARNING, "Round %s is thin: only workers %s took part", record["round"], record["present"])
        return record
