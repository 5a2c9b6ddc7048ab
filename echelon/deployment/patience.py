"""Requests that a SuperLink fails at are repeated: after a full disk of its database, for example, it goes on.

Flower's own connection repeats requests that do not reach the SuperLink, or that it is too busy for, but not those that
it answers with an error of its own (HTTP status 500). A SuperLink does not deliver a message again, so a node that gave
up would leave the round waiting for it.
"""

import time
from collections.abc import Callable
from functools import partial
from logging import WARNING
from typing import Any

from flwr.supercore import log

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
GIVE_UP_SECONDS = 600.0


def patient(
    function: Callable[..., Any],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[..., Any]:
    """Return a function that repeats a request as long as the SuperLink fails at it, for 600 s.

    Parameters
    ----------
    function : callable
        Makes the request.
    sleep, clock : callable
        Wait for seconds; return seconds.
    """
    return partial(_repeated, function, sleep, clock)


def _repeated(
    function: Callable[..., Any], sleep: Callable[[float], None], clock: Callable[[], float], *given: Any, **named: Any
) -> Any:
    end, pause = clock() + GIVE_UP_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            return function(*given, **named)
        except Exception as error:
            status = _status(error)
            if status < 500 or clock() >= end:
                raise
            log(WARNING, "The SuperLink fails at a request (status %d); it is repeated in %g s", status, pause)
        sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _status(error: Exception) -> int:
    """Return the HTTP status that an error tells; 0 if it is another error."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))
