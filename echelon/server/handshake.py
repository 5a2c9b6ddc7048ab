"""The handshake at the start: nodes are queried as they connect, until every rank has one."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from logging import INFO, WARNING

from flwr.app import Message
from flwr.supercore import log

from echelon.protocol.messages import RosterEntry
from echelon.server.exchange import Exchange, RunStoppedError
from echelon.server.identity import Identities
from echelon.server.nodes import Assignment, RosterError, assign, read_answer
from echelon.server.waiting import describe

SETTLE_SECONDS = 0.1
# How often the log says what the start waits for.
_REPORT_SECONDS = 10.0


class HandshakeFailedError(RosterError):
    """Every worker has failed in the handshake."""


@dataclass
class Handshake:
    """Queries nodes and collects their answers.

    Attributes
    ----------
    exchange : Exchange
        Carries the messages.
    identities : Identities
        Objects to nodes that must not have a rank.
    query : callable
        Returns the message to a node.
    num_workers : int
        Number of ranks N.
    answers : dict of int to RosterEntry or None
        By node id; None from a node that claims no rank.
    failures : dict of int to str
        Why a node could not answer.
    queried : dict of int to float
        When a node was sent a message.
    fair_end : float
        Time at which nodes that have not answered are left out, once all ranks have been claimed.
    next_report : float
        When the log says again what the start waits for.
    """

    exchange: Exchange
    identities: Identities
    query: Callable[[int], Message]
    num_workers: int
    answers: dict[int, RosterEntry | None] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    queried: dict[int, float] = field(default_factory=dict)
    fair_end: float = math.inf
    next_report: float = math.inf

    def run(self, seconds: float, waits: bool) -> Assignment:
        """Return the assignment of all ranks; after ``seconds``, nodes that have not answered claim none.

        Parameters
        ----------
        seconds : float
            Real time to wait for nodes and their answers.
        waits : bool
            Whether to wait for further nodes if ranks are missing when every node has answered.

        Raises
        ------
        RosterError
            If every node fails or a rank has no node.
        RunStoppedError
            If the run is told to stop.
        """
        began = time.monotonic()
        told = False
        self.next_report = began + _REPORT_SECONDS
        while not self._query_and_collect(began, began + seconds):
            silent = self.queried.keys() - self.answers.keys()
            made = assign(self.answers, self.num_workers, self.identities)
            if not silent and not (waits and made.missing(self.num_workers)):
                break
            if time.monotonic() >= began + seconds:
                self.answers |= dict.fromkeys(silent)
                break
            if not silent and not told:
                told = True
                log(WARNING, "Waiting for more nodes: %s", self._missing_ranks(made))
            self._report()
            if self.exchange.stop.wait(SETTLE_SECONDS):
                raise RunStoppedError("the run was stopped")
        if len(self.failures) == len(self.answers) > 0:
            raise HandshakeFailedError(f"every worker failed in the handshake: {next(iter(self.failures.values()))}")
        made = assign(self.answers, self.num_workers, self.identities)
        if made.missing(self.num_workers):
            raise RosterError((f"waited {seconds:g} s: " if waits else "") + self._missing_ranks(made))
        return made

    def _query_and_collect(self, began: float, end: float) -> bool:
        """Query the nodes that have connected since, and collect answers; return whether no more are needed."""
        unsent = self._unqueried()
        self.queried |= dict.fromkeys(unsent, time.monotonic())

        def goes_on() -> bool:
            self._report()
            return self._is_over(began) or bool(not unsent and self._unqueried())

        for reply in self.exchange.run(self._queries(unsent), end - time.monotonic(), goes_on):
            node = self.exchange.node_of(reply)
            self.answers[node] = read_answer(reply)
            if has_failed(reply):
                self.failures[node] = log_failure(node, reply)
        return self._is_over(began)

    def _is_over(self, began: float) -> bool:
        """Return whether every rank has been claimed, and the other nodes have had as long again to answer.

        One of them may claim the same rank with more right to it.
        """
        if self._unclaimed():
            return False
        now = time.monotonic()
        self.fair_end = min(self.fair_end, 2 * now - began)
        return now >= self.fair_end

    def _unclaimed(self) -> list[int]:
        claims = {node: entry for node, entry in self.answers.items() if entry is not None}
        return assign(claims, self.num_workers, self.identities).missing(self.num_workers)

    def _report(self) -> None:
        """Say every ten seconds what the start waits for: processes of devices may take minutes to start."""
        now = time.monotonic()
        if now < self.next_report:
            return
        self.next_report = now + _REPORT_SECONDS
        silent = self.queried.keys() - self.answers.keys()
        starting = {node: (self.identities.listed_rank(node), now - self.queried[node]) for node in silent}
        log(INFO, "%s", describe(self.num_workers, self._unclaimed(), starting))

    def _unqueried(self) -> list[int]:
        return sorted(node for node in self.exchange.grid.get_node_ids() if node not in self.queried)

    def _queries(self, nodes: list[int]) -> Iterator[Message]:
        """Yield the message to each node, and take the node from the list when it can be sent."""
        while nodes:
            yield self.query(nodes.pop(0))

    def _missing_ranks(self, made: Assignment) -> str:
        missing = made.missing(self.num_workers)
        ranks = f"rank {missing[0]} has" if len(missing) == 1 else f"ranks {', '.join(map(str, missing))} have"
        left_out = "".join(f"; node {node} is left out: {reason}" for node, reason in made.left_out.items())
        return f"{ranks} no node: start a SuperNode for each, with its rank in --node-config{left_out}"


def has_failed(reply: Message) -> bool:
    """Return whether a node failed to answer; a foreign client, which does not know the query, has not failed."""
    return reply.has_error() and "function registered" not in str(reply.error.reason)


def log_failure(node: int, reply: Message) -> str:
    """Log why a node failed to answer, and return it."""
    reason = str(reply.error.reason).strip().splitlines()[-1]
    log(WARNING, "Node %s failed in the handshake: %s", node, reason)
    return reason
