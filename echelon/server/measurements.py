"""What a strategy may ask of the server in a round: distances between models, and held-out losses of mixed ones."""

from collections.abc import Callable, Mapping

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord

from echelon.core import operations
from echelon.core.layout import Row
from echelon.core.mixing import Floats, Mixing
from echelon.core.strategy import Order
from echelon.protocol.layout import ArrayLayout
from echelon.server.replies import Reply
from echelon.server.state import ServerState


class Measurements:
    """A round's models on the server, before they are mixed; a :class:`echelon.core.strategy.Host`.

    Parameters
    ----------
    state : ServerState
        With the models at the start of the round; not changed.
    updated : mapping of rank to float32 ndarray, shape (P,)
        New rows of the workers that took part.
    layout : ArrayLayout
        Of the rows.
    order : {"adapt_then_combine", "combine_then_adapt"}
        Of the strategy: the updated rows are mixed, or those of the start.
    held_out_loss : callable, optional
        (arrays) -> loss on the held-out batch.
    """

    def __init__(
        self,
        state: ServerState,
        updated: Mapping[int, Row],
        layout: ArrayLayout,
        order: Order,
        held_out_loss: Callable[[ArrayRecord], float] | None,
    ) -> None:
        self._state, self._updated, self._layout, self._order = state, updated, layout, order
        self._held_out_loss = held_out_loss

    def distances(self, graph: nx.Graph) -> Floats:
        """Return the distances of the models that are to be mixed along the edges of a graph, (N, N); 0 elsewhere."""
        mixed = list(self._state.rows)
        if self._order == "adapt_then_combine":
            for rank, row in self._updated.items():
                mixed[rank] = row
        return operations.distances(mixed, graph, self._layout.num_mixed)

    def mixed_losses(self, mixing: Mixing) -> Floats:
        """Return the held-out loss of each present worker's mixed model, (N,); NaN for absent workers.

        Raises
        ------
        ValueError
            If the server has no held-out batch.
        """
        if self._held_out_loss is None:
            raise ValueError("held_out_loss must be a function of a model's arrays; got none")
        rows = self._state.rows.copy()
        operations.combine(mixing.matrix, rows, self._updated, self._layout.num_mixed, self._order)
        losses = np.full(len(rows), np.nan)
        for rank in self._updated:
            losses[rank] = self._held_out_loss(self._layout.arrays(rows[rank], self._state.exact[rank]))
        return losses


def measured_losses(
    replies: Mapping[int, Reply],
    layout: ArrayLayout,
    num_workers: int,
    held_out_loss: Callable[[ArrayRecord], float] | None,
) -> Floats:
    """Return the round's losses by rank, (N,): of training, or on the held-out batch if given; NaN where unknown."""
    measured = np.full(num_workers, np.nan)
    for rank, reply in replies.items():
        if held_out_loss is not None and reply.row is not None and reply.exact is not None:
            loss = held_out_loss(layout.arrays(reply.row, reply.exact))
            measured[rank] = loss if np.isfinite(loss) else np.inf  # NaN would leave its earlier loss as it is
        elif reply.report.samples:
            measured[rank] = reply.report.train_loss
    return measured
