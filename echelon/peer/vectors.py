"""What is as large as a model and kept for each worker between rounds, in the process that holds the worker."""

from collections.abc import Mapping

import torch
from torch import Tensor

from echelon.algorithms.corrections import quasi_global, tracked
from echelon.core.mixing import Mixing
from echelon.core.operations import base_matrix
from echelon.core.strategy import RoundNumbers, Strategy
from echelon.peer.exchange import Exchange, Rows
from echelon.peer.group import Group


class Vectors:
    """Quasi-global momentum, tracking corrections and remembered gradients of the workers of one process.

    Parameters
    ----------
    strategy : Strategy
        Says which of them are kept.
    group : Group
        Who holds which worker.

    Attributes
    ----------
    memory : dict of int to tensor, shape (number of parameters,)
        h_i of the workers that have one, for ``estimator=memory``; personal parameters included.
    """

    def __init__(self, strategy: Strategy, group: Group) -> None:
        self._strategy, self._group = strategy, group
        self._momentum: Rows = {}
        self._corrections: Rows = {}
        self.memory: Rows = {}

    def of(self, rank: int) -> dict[str, Tensor]:
        """Return what is kept of a worker, by name."""
        return {name: vectors[rank] for name, vectors in self._by_name().items() if rank in vectors}

    def put(self, rank: int, vectors: Mapping[str, Tensor]) -> None:
        """Keep other vectors of a worker, as :meth:`of` returned them."""
        for name, kept in self._by_name().items():
            kept.pop(rank, None)
            if name in vectors:
                kept[rank] = vectors[name]

    def _by_name(self) -> dict[str, Rows]:
        return {"quasi_global": self._momentum, "tracking": self._corrections, "memory": self.memory}

    def directions(self, rows: Mapping[int, Tensor]) -> Rows:
        """Return mu m by rank, for workers with these models; empty without quasi-global momentum."""
        momentum = self._strategy.host_momentum
        return {rank: momentum * _kept(self._momentum, rank, row) for rank, row in rows.items()} if momentum else {}

    def corrections(self, rows: Mapping[int, Tensor]) -> Rows:
        """Return the corrections by rank, for workers with these models; empty without tracking."""
        if self._strategy.correction != "tracking":
            return {}
        return {rank: _kept(self._corrections, rank, row) for rank, row in rows.items()}

    def follow(self, starts: Mapping[int, Tensor], mixed: Rows, lengths: Mapping[int, float | None]) -> None:
        """Let the momentum follow the models of the workers with F lr in ``lengths``; the others keep theirs."""
        momentum = self._strategy.host_momentum
        for rank, length in lengths.items():
            if momentum and length is not None:
                buffer = _kept(self._momentum, rank, mixed[rank])
                self._momentum[rank] = quasi_global(buffer, starts[rank], mixed[rank], momentum=momentum, length=length)

    def track(
        self, rows: Mapping[int, Tensor], gradients: Mapping[int, Tensor], mixing: Mixing, numbers: RoundNumbers
    ) -> None:
        """Update the corrections by the mean corrected gradients, which are exchanged as the models are.

        Every process must call it: workers that have processed samples take part, the others keep their corrections.
        """
        if self._strategy.correction != "tracking":
            return
        own = {rank: gradients.get(rank, torch.zeros_like(row)) for rank, row in rows.items()}
        averaged = Exchange(own, self._group).combine(base_matrix(mixing, numbers.samples.nonzero()[0]))
        for rank, row in rows.items():
            self._corrections[rank] = tracked(_kept(self._corrections, rank, row), own[rank], averaged[rank])


def _kept(vectors: Rows, rank: int, like: Tensor) -> Tensor:
    """Return a worker's vector; zeros at first."""
    return vectors.setdefault(rank, torch.zeros_like(like))
