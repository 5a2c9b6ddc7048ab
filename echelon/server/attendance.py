"""Which workers are connected: what the log says of it, and the wait when nobody is."""

import time
from collections import Counter
from collections.abc import Callable
from logging import WARNING

from flwr.app import Message
from flwr.supercore import log

from echelon.server.exchange import Exchange, RunStoppedError
from echelon.server.nodes import QUERY_TYPE, RosterError
from echelon.server.registration import Registration

_POLL_SECONDS = 0.1


class Attendance:
    """Admits nodes that connect during a run, waits when no worker is there, and logs who comes and goes, once.

    Parameters
    ----------
    exchange, registration
        Of the run.
    roster_timeout : float
        Real seconds to wait for a worker to connect when all are gone.
    """

    def __init__(self, exchange: Exchange, registration: Registration, roster_timeout: float) -> None:
        self._exchange = exchange
        self._registration = registration
        self._roster_timeout = roster_timeout
        self._present = set(registration.roster.ranks().values())
        self._departures: Counter[int] = Counter()

    def connected(self) -> set[int]:
        """Return the ranks whose nodes are connected; log who has left."""
        ranks = self._registration.roster.ranks()
        connected = {ranks[node] for node in self._exchange.grid.get_node_ids() if node in ranks}
        self._log_departures(self._present - connected)
        self._present = connected
        return connected

    def update(self) -> list[Message]:
        """Admit nodes that have answered, query newcomers, log who has left; return the other late replies."""
        late = []
        for reply in self._exchange.collect_late():
            if self._exchange.type_of(reply) == QUERY_TYPE:
                self._registration.admit(reply)
            else:
                late.append(reply)
        self._exchange.send(self._registration.query_newcomers())
        self.connected()
        return late

    def wait(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``ready`` is true; return False if it is not after ``timeout`` seconds with workers connected.

        Raises
        ------
        RosterError
            If no worker is connected for ``roster_timeout`` seconds.
        RunStoppedError
            If the run is told to stop.
        """
        began = alone_since = time.monotonic()
        alone = False
        while not ready():
            for reply in self.update():
                self._exchange.keep(reply)
            now = time.monotonic()
            if self._present:
                alone, alone_since = False, now
                if now - began >= timeout:
                    return False
            elif not alone:
                alone = True
                log(WARNING, "No worker is connected: the run waits up to %g s for one", self._roster_timeout)
            elif now - alone_since >= self._roster_timeout:
                raise RosterError(f"no worker has been connected for {self._roster_timeout:g} s (roster_timeout)")
            if self._exchange.stop.wait(_POLL_SECONDS):
                raise RunStoppedError("the run was stopped")
        if alone:
            log(WARNING, "Workers are connected again: the run goes on")
        return True

    def _log_departures(self, gone: set[int]) -> None:
        self._departures.update(gone)
        first = sorted(rank for rank in gone if self._departures[rank] == 1)
        second = sorted(rank for rank in gone if self._departures[rank] == 2)
        if first:
            log(WARNING, "Workers %s are not connected: the run goes on without them until they are back", first)
        if second:
            log(WARNING, "Workers %s come and go: their further departures are not logged", second)
