"""Enrolment of nodes: the handshake at the start, and the return of a worker under a new node id."""

import time
from logging import WARNING

from flwr.app import ConfigRecord, Message
from flwr.supercore import log

from echelon.protocol.messages import RosterEntry, TrainInstructions
from echelon.server import nodes as rosters
from echelon.server.exchange import Exchange, RunStoppedError
from echelon.server.nodes import Roster, RosterError

_SETTLE_SECONDS = 0.1


class Enrolment:
    """Keeps the roster of a run true.

    Parameters
    ----------
    exchange : Exchange
        To ask the nodes through.
    instructions : TrainInstructions
        Sent with the question: a real device measures its speed on mini-batches of the run's size.
    config : ConfigRecord
        Sent along as it is.
    """

    def __init__(self, exchange: Exchange, instructions: TrainInstructions, config: ConfigRecord) -> None:
        self._exchange = exchange
        self._instructions = instructions
        self._config = config
        self._asked: set[int] = set()
        self._known: set[int] = set()
        self.roster = Roster([], [])

    def enrol(self, num_workers: int | None, timeout: float) -> Roster:
        """Wait for the nodes, ask each who it is, and return the roster.

        Raises
        ------
        RosterError
            If too few nodes are there in time, none answers, or the ranks do not fit together.
        RunStoppedError
            If the run is asked to stop.
        """
        nodes = self._wait_for_nodes(num_workers, timeout)
        self._asked = set(nodes)
        answers: dict[int, RosterEntry | None] = {}
        failures: list[str] = []
        for reply in self._exchange.run([self._question(node) for node in nodes], timeout):
            node = self._exchange.node_of(reply)
            answers[node] = entry = rosters.read_answer(reply)
            if entry is not None:
                self._known.add(node)
            if entry is not None and entry.packs:
                self._exchange.pack_for(node)
            if _failed(reply):
                failures.append(self._ask_again(reply))
        if len(failures) == len(nodes):
            raise RosterError(f"every worker failed in the handshake: {failures[0]}")
        for node in nodes:
            answers.setdefault(node, None)
        self.roster = rosters.build(answers)
        return self.roster

    def invite_newcomers(self) -> list[Message]:
        """Return the question for every node that has connected since."""
        nodes = [node for node in self._exchange.grid.get_node_ids() if node not in self._asked]
        self._asked.update(nodes)
        return [self._question(node) for node in nodes]

    def admit(self, reply: Message) -> None:
        """Let a node that has come back take its rank again; nobody takes that of a node which is there."""
        entry = rosters.read_answer(reply)
        node = self._exchange.node_of(reply)
        if _failed(reply):
            self._ask_again(reply)
            return
        if entry is None or not 0 <= entry.rank < len(self.roster):
            log(WARNING, "Node %s has no rank of this run and is left out", node)
            return
        nodes = self.roster.node_ids
        holder = nodes[entry.rank]
        # A node that was silent in the handshake was given a rank that was left: it may have to leave it again.
        lasting = node not in nodes or holder in self._known
        if holder != node and lasting and holder in self._exchange.grid.get_node_ids():
            log(WARNING, "Node %s claims rank %s, whose node is connected; it is asked again later", node, entry.rank)
            self._asked.discard(node)
            return
        if node in nodes:  # it was silent in the handshake and had been given a rank that was left
            nodes[nodes.index(node)] = nodes[entry.rank]
        else:
            self._exchange.forget(nodes[entry.rank])
        nodes[entry.rank] = node
        self._known.add(node)
        if entry.packs:
            self._exchange.pack_for(node)

    def _ask_again(self, reply: Message) -> str:
        """Let a node that failed to answer be asked again in the next round; return why it failed."""
        node = self._exchange.node_of(reply)
        reason = str(reply.error.reason).strip().splitlines()[-1]
        log(WARNING, "Node %s failed in the handshake: %s", node, reason)
        self._asked.discard(node)
        return reason

    def _question(self, node_id: int) -> Message:
        config = self._instructions.to_config()
        config.update(self._config)
        return rosters.query(node_id, config)

    def _wait_for_nodes(self, num_workers: int | None, timeout: float) -> list[int]:
        """Wait for ``num_workers`` nodes; without a number, until there are some and no more are coming."""
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
    """Say whether a node could not answer; a foreign client, which does not know the question, has not failed."""
    return reply.has_error() and "function registered" not in str(reply.error.reason)
