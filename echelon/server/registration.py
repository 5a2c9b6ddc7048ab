"""Registration of nodes: the handshake at the start, and the return of a worker under a new node id."""

import time
from logging import WARNING

from flwr.app import ConfigRecord, Message
from flwr.supercore import log

from echelon.protocol.messages import RosterEntry, TrainInstructions
from echelon.server.exchange import Exchange, RunStoppedError
from echelon.server.nodes import Roster, RosterError, build_roster, read_answer, roster_query

_SETTLE_SECONDS = 0.1
# Pauses before the handshake is repeated, if every worker has failed in it.
_REPEAT_SECONDS = (1.0, 5.0)


class HandshakeFailedError(RosterError):
    """Every worker has failed in the handshake."""


class Registration:
    """Keeps the roster of a run up to date.

    Parameters
    ----------
    exchange : Exchange
        Carries the handshake's messages.
    instructions : TrainInstructions
        Sent with the handshake: a real device measures its speed on mini-batches of the run's size.
    config : ConfigRecord
        Sent along unchanged.

    Attributes
    ----------
    roster : Roster
        Empty until :meth:`register` has returned.
    """

    def __init__(self, exchange: Exchange, instructions: TrainInstructions, config: ConfigRecord) -> None:
        self._exchange = exchange
        self._instructions = instructions
        self._config = config
        self._queried: set[int] = set()
        self._identified: set[int] = set()
        self.roster = Roster([], [])

    def register(self, num_workers: int | None, timeout: float) -> Roster:
        """Wait for the nodes, query each for its identity, and return the roster.

        If every worker fails in the handshake, it is repeated twice.

        Raises
        ------
        RosterError
            If too few nodes connect in time, none answers, or their ranks are not 0..N-1.
        RunStoppedError
            If the run is told to stop.
        """
        end = time.monotonic() + timeout
        for pause in _REPEAT_SECONDS:
            try:
                return self._handshake(num_workers, timeout)
            except HandshakeFailedError as error:
                timeout = end - time.monotonic() - pause
                if timeout <= 0:
                    raise
                log(WARNING, "%s; it is repeated in %g s", error, pause)
            if self._exchange.stop.wait(pause):
                raise RunStoppedError("the run was stopped")
        return self._handshake(num_workers, timeout)

    def _handshake(self, num_workers: int | None, timeout: float) -> Roster:
        nodes = self._wait_for_nodes(num_workers, timeout)
        self._queried = set(nodes)
        answers: dict[int, RosterEntry | None] = {}
        failures: list[str] = []
        for reply in self._exchange.run([self._query(node) for node in nodes], timeout):
            node = self._exchange.node_of(reply)
            answers[node] = entry = read_answer(reply)
            if entry is not None:
                self._identify(node, entry)
            if _failed(reply):
                failures.append(self._query_again(reply))
        if len(failures) == len(nodes):
            raise HandshakeFailedError(f"every worker failed in the handshake: {failures[0]}")
        for node in nodes:
            answers.setdefault(node, None)
        self.roster = build_roster(answers)
        return self.roster

    def query_newcomers(self) -> list[Message]:
        """Return the handshake's message to every node that has connected since the last call."""
        nodes = [node for node in self._exchange.grid.get_node_ids() if node not in self._queried]
        self._queried.update(nodes)
        return [self._query(node) for node in nodes]

    def admit(self, reply: Message) -> None:
        """Give a node that has reconnected its rank again, unless a connected node holds that rank."""
        entry = read_answer(reply)
        node = self._exchange.node_of(reply)
        if _failed(reply):
            self._query_again(reply)
            return
        if entry is None or not 0 <= entry.rank < len(self.roster):
            log(WARNING, "Node %s has no rank of this run and is left out", node)
            return
        nodes = self.roster.node_ids
        holder = nodes[entry.rank]
        # A node that did not answer the handshake was assigned a spare rank, which it may have to give up again.
        takeover_refused = node not in nodes or holder in self._identified
        if holder != node and takeover_refused and holder in self._exchange.grid.get_node_ids():
            log(WARNING, "Node %s claims rank %s, whose node is connected; it is queried again later", node, entry.rank)
            self._queried.discard(node)
            return
        if node in nodes:  # it did not answer the handshake and was assigned a spare rank
            nodes[nodes.index(node)] = holder
        else:
            self._exchange.forget(holder)
        nodes[entry.rank] = node
        self._identify(node, entry)

    def _identify(self, node: int, entry: RosterEntry) -> None:
        self._identified.add(node)
        if entry.packs:
            self._exchange.pack_for(node)

    def _query_again(self, reply: Message) -> str:
        """Query a node that failed again in the next round; return why it failed."""
        node = self._exchange.node_of(reply)
        reason = str(reply.error.reason).strip().splitlines()[-1]
        log(WARNING, "Node %s failed in the handshake: %s", node, reason)
        self._queried.discard(node)
        return reason

    def _query(self, node_id: int) -> Message:
        config = self._instructions.to_config()
        config.update(self._config)
        return roster_query(node_id, config)

    def _wait_for_nodes(self, num_workers: int | None, timeout: float) -> list[int]:
        """Wait for ``num_workers`` nodes; without a number, until there is one and no more are connecting."""
        end = time.monotonic() + timeout
        before: list[int] = []
        while True:
            nodes = sorted(self._exchange.grid.get_node_ids())
            settled = bool(nodes) and nodes == before if num_workers is None else len(nodes) >= num_workers
            if settled:
                return nodes
            if time.monotonic() > end:
                wanted = "any worker" if num_workers is None else f"{num_workers} workers"
                raise RosterError(f"waited {timeout:g} s for {wanted}; {len(nodes)} connected: start more SuperNodes")
            before = nodes
            if self._exchange.stop.wait(_SETTLE_SECONDS):
                raise RunStoppedError("the run was stopped")


def _failed(reply: Message) -> bool:
    """Return whether a node failed to answer; a foreign client, which does not know the query, has not failed."""
    return reply.has_error() and "function registered" not in str(reply.error.reason)
