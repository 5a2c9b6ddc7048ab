"""Registration of nodes: the handshake at the start, spares, and the return of a worker under a new node id."""

import time
from logging import INFO, WARNING

from flwr.app import ConfigRecord, Message
from flwr.supercore import log

from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import USER_CODE_ERROR, RosterEntry, TrainInstructions
from echelon.protocol.wire import Wire
from echelon.server.exchange import Exchange, RunStoppedError
from echelon.server.handshake import SETTLE_SECONDS, Handshake, HandshakeFailedError, has_failed, log_failure
from echelon.server.identity import Identities, Nodes
from echelon.server.nodes import Assignment, Roster, RosterError, build_roster, read_answer, roster_query
from echelon.server.transport import is_deployed

# Pauses before the handshake is repeated, if every worker has failed in it.
_REPEAT_SECONDS = (1.0, 5.0)


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
    nodes : Nodes, optional
        Nodes that may have each rank; by default see :class:`echelon.server.identity.Identities`.
    wire : {"fp32", "bf16"}
        How models travel to and from workers that take both.

    Attributes
    ----------
    roster : Roster
        Empty until :meth:`register` has returned.
    """

    def __init__(
        self,
        exchange: Exchange,
        instructions: TrainInstructions,
        config: ConfigRecord,
        nodes: Nodes | None = None,
        wire: Wire = "fp32",
    ) -> None:
        self._exchange = exchange
        self._instructions = instructions
        self._config = config
        self._identities = Identities(exchange.grid, nodes)
        self._wire = wire
        self._takes_bf16: set[int] = set()
        self._named_in_log: set[int] = set()
        self._queried: set[int] = set()
        self._identified: set[int] = set()
        self._spares: dict[int, int] = {}
        self.roster = Roster([], [])

    def register(self, num_workers: int | None, timeout: float) -> Roster:
        """Wait for the nodes, query each for its identity, and return the roster.

        A node too many is named in the log and stays as a spare for the rank that it claims. If every worker fails in
        the handshake, it is repeated twice: the data of a device may come late. In a simulation, what fails in the
        user's code fails again.

        Parameters
        ----------
        num_workers : int or None
            Number of ranks; by default the number of nodes that are connected.
        timeout : float
            Seconds to wait for nodes and their answers. Nodes that have not answered by then get ranks that are left.

        Raises
        ------
        RosterError
            If no node answers or a rank has no node.
        RunStoppedError
            If the run is told to stop.
        """
        end = time.monotonic() + timeout
        for pause in _REPEAT_SECONDS:
            try:
                return self._handshake(num_workers, timeout)
            except HandshakeFailedError as error:
                if USER_CODE_ERROR in str(error) and not is_deployed(self._exchange.grid):
                    raise
                timeout = end - time.monotonic() - pause
                if timeout <= 0:
                    raise
                log(WARNING, "%s; it is repeated in %g s", error, pause)
            if self._exchange.stop.wait(pause):
                raise RunStoppedError("the run was stopped")
        return self._handshake(num_workers, timeout)

    def _handshake(self, num_workers: int | None, timeout: float) -> Roster:
        size = len(self._settled_nodes(timeout)) if num_workers is None else num_workers
        handshake = Handshake(self._exchange, self._identities, self._query, size)
        made = handshake.run(timeout, waits=num_workers is not None)
        # Those that failed are queried again in the next round.
        self._queried = handshake.queried.keys() - handshake.failures.keys()
        self._accept(made, handshake.answers)
        return self.roster

    def takes_rows(self, rank: int) -> bool:
        """Return whether models travel as one array to and from a worker."""
        return self._exchange.takes_rows(self.roster.node_ids[rank])

    def train_layout(self, layout: ArrayLayout, rank: int) -> ArrayLayout:
        """Return the layout by which models travel to and from a worker for training."""
        bf16 = self._wire == "bf16" and self.roster.node_ids[rank] in self._takes_bf16
        found = layout.form(rows=self.takes_rows(rank), bf16=bf16)
        if self._wire == "bf16" and not found.differences and rank not in self._named_in_log:
            self._named_in_log.add(rank)
            log(
                WARNING,
                "wire=bf16: models travel to and from worker %s in fp32; it is another Flower client or has mods, or a "
                "wrapper of the strategy looks at them",
                rank,
            )
        return found

    def query_newcomers(self) -> list[Message]:
        """Return the handshake's message to every node that has connected since, and to spares that are needed."""
        connected = list(self._exchange.grid.get_node_ids())
        needed = {node for node, rank in self._spares.items() if self._is_needed(node, rank, connected)}
        nodes = [node for node in connected if node not in self._queried or node in needed]
        self._queried.update(nodes)
        return [self._query(node) for node in nodes]

    def admit(self, reply: Message) -> None:
        """Give a node that has answered later the rank that it claims, if that rank's node is gone and it may have it.

        A worker comes back to its rank in this way, and a spare takes the rank of a worker that is gone.
        """
        node = self._exchange.node_of(reply)
        if has_failed(reply):
            log_failure(node, reply)
            self._queried.discard(node)
            return
        entry = read_answer(reply)
        reason = self._obstacle(node, entry)
        if entry is None or reason is not None:
            log(WARNING, "Node %s is left out: %s", node, reason)
            return
        nodes = self.roster.node_ids
        holder = nodes[entry.rank]
        if node in nodes:  # it did not answer the handshake and was assigned a spare rank
            nodes[nodes.index(node)] = holder
        else:
            log(INFO, "Node %s has rank %s from now on, in place of node %s", node, entry.rank, holder)
            self._exchange.forget(holder)
            self._spares[holder] = entry.rank
        self._spares.pop(node, None)
        nodes[entry.rank] = node
        self.roster.shard_sizes[entry.rank] = entry.num_examples
        self._identify(node, entry)

    def _accept(self, made: Assignment, answers: dict[int, RosterEntry | None]) -> None:
        """Take over the assignment of all ranks; the nodes left out are named once."""
        self.roster = build_roster(made, answers)
        for rank, node in made.nodes.items():
            entry = answers[node]
            if entry is not None:
                self._identify(node, entry)
            else:
                log(INFO, "Node %s claims no rank and gets rank %s, which is left", node, rank)
        for node, reason in made.left_out.items():
            log(WARNING, "Node %s is left out: %s", node, reason)
            entry = answers[node]
            if entry is not None and entry.rank < len(self.roster):
                self._spares[node] = entry.rank
        self._identities.complete()

    def _obstacle(self, node: int, entry: RosterEntry | None) -> str | None:
        """Return why a node that has answered does not get the rank that it claims, or None."""
        if entry is None:
            return "it claims no rank"
        if entry.rank >= len(self.roster):
            return f"it claims rank {entry.rank}, but ranks are 0..{len(self.roster) - 1}"
        if entry.parts != self.roster.parts:
            reason = entry.parts.difference(self.roster.parts) if entry.parts and self.roster.parts else "is unknown"
            return f"it claims rank {entry.rank}, but its model {reason}"
        nodes = self.roster.node_ids
        holder = nodes[entry.rank]
        if holder == node:
            return None
        # A node that did not answer the handshake was assigned a spare rank, which it may have to give up again.
        takeover_refused = node not in nodes or holder in self._identified
        if takeover_refused:
            self._spares[node] = entry.rank
            if holder in self._exchange.grid.get_node_ids():
                return f"it claims rank {entry.rank}, but node {holder} has it; it stays as a spare"
        objection = self._identities.objection(entry.rank, node)
        return objection and f"it claims rank {entry.rank}, but {objection}"

    def _is_needed(self, node: int, rank: int, connected: list[int]) -> bool:
        holder = self.roster.node_ids[rank]
        if node not in connected or holder in connected or node in self._exchange.busy_nodes:
            return False
        return self._identities.objection(rank, node) is None

    def _identify(self, node: int, entry: RosterEntry) -> None:
        self._identified.add(node)
        self._identities.bind(entry.rank, node)
        if entry.packs:
            self._exchange.pack_for(node)
        if entry.bf16:
            self._takes_bf16.add(node)

    def _query(self, node_id: int) -> Message:
        config = self._instructions.to_config()
        config.update(self._config)
        return roster_query(node_id, config)

    def _settled_nodes(self, timeout: float) -> list[int]:
        """Wait until there is a node and no more are connecting; return the nodes."""
        end = time.monotonic() + timeout
        before: list[int] = []
        while True:
            nodes = sorted(self._exchange.grid.get_node_ids())
            if nodes and nodes == before:
                return nodes
            if time.monotonic() > end:
                raise RosterError(f"waited {timeout:g} s for any worker; none connected: start SuperNodes")
            before = nodes
            if self._exchange.stop.wait(SETTLE_SECONDS):
                raise RunStoppedError("the run was stopped")
