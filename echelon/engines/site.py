"""A worker of a run without a server: its model stays in its process, and the client's own code trains it."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from torch import Tensor

from echelon.core.layout import Bytes, Row
from echelon.core.partition import Partition
from echelon.peer.rounds import Instructions
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import (
    ANCHOR,
    CONFIG,
    CORRECTION,
    DIRECTION,
    INITIAL,
    MEMORY,
    ROSTER_QUERY,
    RosterEntry,
    TrainInstructions,
)
from echelon.server.instructions import train_content
from echelon.server.replies import Reply, read_content

Answer = Callable[[str, RecordDict, Context], RecordDict]


@dataclass(frozen=True)
class Held:
    """What a worker holds between rounds; the arrays are not changed.

    Attributes
    ----------
    row : float32 ndarray, shape (P,)
        The model: parameters, then buffers.
    exact : uint8 ndarray, shape (B,)
        Bytes of the buffers that have no place in a row.
    momentum : float32 ndarray, shape (number of parameters,), or None
        Momentum buffer, where there is momentum.
    optimizer : float32 ndarray, shape (S,)
        State of another optimiser; NaN before the first step.
    """

    row: Row
    exact: Bytes
    momentum: Row | None
    optimizer: Row

    @classmethod
    def initial(cls, layout: ArrayLayout, row: Row, exact: Bytes, has_momentum: bool) -> "Held":
        """Return a model without state of the optimiser."""
        momentum = np.zeros(layout.num_parameters, dtype=np.float32) if has_momentum else None
        return cls(row, exact, momentum, np.full(layout.optimizer_size, np.nan, dtype=np.float32))


class Site:
    """One worker, with what a server would keep of it between rounds.

    Parameters
    ----------
    rank : int
        The worker.
    num_workers : int
        N.
    answer : callable
        (message type, content, context) -> content of the reply, as :attr:`clients.app.WorkerApp.answer`.

    Attributes
    ----------
    held : Held
        Once :meth:`begin` has been called.
    """

    held: Held

    def __init__(self, rank: int, num_workers: int, answer: Answer) -> None:
        self.rank, self._answer = rank, answer
        node = {"partition-id": rank, "num-partitions": num_workers}
        self._context = Context(run_id=1, node_id=rank, node_config={**node}, state=RecordDict(), run_config={})

    def describe(self, handshake: TrainInstructions, names: Iterable[str]) -> RosterEntry:
        """Return what the client says of itself, given the names of the initial model's arrays."""
        config = ConfigRecord({**asdict(handshake), INITIAL: list(names)})
        return RosterEntry.from_content(self._answer(ROSTER_QUERY, RecordDict({CONFIG: config}), self._context))

    def begin(self, layout: ArrayLayout, held: Held) -> None:
        """Start from a model."""
        self._layout, self.held = layout, held

    def train(
        self, instructions: TrainInstructions, begun: Instructions, partition: Partition, memory: Tensor | None = None
    ) -> Reply:
        """Let the client do its local steps of a round, filled in by a remembered gradient; nothing is changed here.

        Raises
        ------
        ValueError
            If what it returns cannot be used, or its data, model or functions have failed.
        """
        rank, config = self.rank, instructions.to_config()
        held = self.held
        model = (held.row, held.exact, held.momentum, held.optimizer)
        content = train_content(config, self._layout, *model, partition, rank)
        if begun.anchors and (strength := float(begun.anchor_strengths[rank])):
            config["anchor_strength"] = strength
            self._add(content, ANCHOR, begun.anchors[rank])
        for name, vectors in ((DIRECTION, begun.directions), (CORRECTION, begun.corrections)):
            if vectors:
                self._add(content, name, vectors[rank])
        if memory is not None:
            self._add(content, MEMORY, memory)
        reply = self._answer("train", content, self._context)
        return read_content(reply, self._layout, instructions.target_samples)

    def after(self, reply: Reply) -> Held:
        """Return what a round leaves, with the parameters of before: buffers, and the state of the optimiser."""
        held = self.held
        if reply.row is None or reply.exact is None:
            return held
        row = held.row
        if self._layout.size > self._layout.num_mixed:
            row = row.copy()
            row[self._layout.num_mixed :] = reply.row[self._layout.num_mixed :]
        has_momentum = held.momentum is not None and reply.momentum is not None
        momentum = reply.momentum if has_momentum else held.momentum
        return Held(row, reply.exact, momentum, held.optimizer if reply.optimizer is None else reply.optimizer)

    def _add(self, content: RecordDict, name: str, vector: Tensor) -> None:
        content[name] = self._layout.parameter_arrays(vector.numpy())
