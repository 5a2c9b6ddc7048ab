"""A round's rows, each at its worker: those of the neighbours are fetched once, and combined as they arrive."""

from collections.abc import Mapping

import networkx as nx
import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from echelon.core.mixing import Floats, Matrix, Mean, TrimmedMean
from echelon.peer.buffers import Buffers
from echelon.peer.group import Group

Rows = dict[int, Tensor]

# Values of a sum that are computed at a time, so that they stay in the processor's cache.
_CHUNK = 1 << 16
# Column sums of doubly stochastic matrices differ from 1 by less.
_ROUNDING = 1e-12
_NEEDS_ALL = "a trimmed mean needs the models of all workers in one place; only a server has them"


class Exchange:
    """The rows that are combined in a round. Every process must make the same calls: each of them communicates.

    Parameters
    ----------
    rows : mapping of int to float32 tensor, shape (P,)
        Of the workers in this process, by rank, on ``group.device``; not changed.
    group : Group
        Who holds which worker.
    buffers : Buffers, optional
        Where vectors are taken from, and where those of other workers' rows go by :meth:`close`.
    """

    def __init__(self, rows: Mapping[int, Tensor], group: Group, buffers: Buffers | None = None) -> None:
        self._rows = dict(rows)
        self._group = group
        self._buffers = buffers or Buffers()
        self._held = [set(group.held_by(process)) for process in range(group.num_processes)]
        self._arriving: dict[int, dist.Work] = {}

    def combine(self, matrix: Matrix) -> Rows:
        """Return ``matrix @ rows`` for the workers of this process; two of them may share a tensor.

        A row is a sum in rank order, so that it does not depend on who holds which worker; that of a :class:`Mean` is
        an all-reduce of the backend.

        Raises
        ------
        ValueError
            If the matrix is a trimmed mean, for which one worker would need the rows of all.
        """
        if isinstance(matrix, TrimmedMean):
            raise ValueError(_NEEDS_ALL)
        if isinstance(matrix, Mean):
            total = self._weighted(np.where(self._is_local(), matrix.weights, 0.0))
            dist.all_reduce(total)
            return dict.fromkeys(self._group.local, total)
        weights: Floats = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
        sends = self._fetch(weights != 0)
        combined = {rank: self._weighted(weights[rank]) for rank in self._group.local}
        _wait(sends)
        return combined

    def distances(self, graph: nx.Graph) -> Floats:
        """Return the distances ||x_j - x_i|| along the edges of a graph, (N, N), the same everywhere; 0 elsewhere."""
        edges = nx.to_numpy_array(graph, nodelist=range(self._group.num_workers), weight=None) > 0
        edges &= np.logical_and.outer(self._group.there, self._group.there)
        sends = self._fetch(edges)
        found = np.zeros(edges.shape)
        for rank in self._group.local:
            for other in np.flatnonzero(edges[rank]).tolist():
                found[rank, other] = torch.linalg.vector_norm(self._row(other) - self._rows[rank]).item()
        _wait(sends)
        return self._group.gather(found)

    def mean_drift(self, matrix: Matrix) -> float:
        """Return ||mean(matrix @ rows) - mean(rows)|| of the workers that take part, the same everywhere.

        It takes an all-reduce, unless it must be 0.
        """
        if isinstance(matrix, TrimmedMean):
            raise ValueError(_NEEDS_ALL)
        there, size = self._group.there, int(self._group.there.sum())
        sums = matrix.weights * size if isinstance(matrix, Mean) else there.astype(np.float64) @ matrix
        excess = np.asarray(sums) - 1
        if np.abs(excess[there]).max() < _ROUNDING:
            return 0.0
        moved = self._weighted(np.where(self._is_local(), excess / size, 0.0))
        dist.all_reduce(moved)
        found = float(torch.linalg.vector_norm(moved, dtype=torch.float64))
        self._buffers.give([moved])
        return found

    def close(self) -> None:
        """Give up the rows of the other workers."""
        others = sorted(set(self._rows) - set(self._group.local))
        self._buffers.give([self._rows.pop(rank) for rank in others])

    def _weighted(self, weights: Floats) -> Tensor:
        """Return the weighted sum of rows, in rank order."""
        ranks = np.flatnonzero(weights).tolist()
        rows = [self._row(rank) for rank in ranks]
        total = self._buffers.take(self._rows[self._group.local[0]])
        if not rows:
            return total.zero_()
        for part, *parts in zip(*(torch.split(row, _CHUNK) for row in (total, *rows)), strict=True):
            torch.mul(parts[0], float(weights[ranks[0]]), out=part)
            for rank, other in zip(ranks[1:], parts[1:], strict=True):
                part.add_(other, alpha=float(weights[rank]))
        return total

    def _row(self, rank: int) -> Tensor:
        if rank in self._arriving:
            self._arriving.pop(rank).wait()
        return self._rows[rank]

    def _fetch(self, needed: NDArray[np.bool_]) -> list[dist.Work]:
        """Start to fetch the rows j that workers i need, ``needed[i, j]``; return what this process is sending."""
        group = self._group
        operations: list[dist.P2POp] = []
        received: list[int | None] = []
        for process in group.members:
            held = self._held[process]
            wanted = np.flatnonzero(needed[group.held_by(process)].any(axis=0))
            for source in sorted(set(wanted.tolist()) - held):
                held.add(source)
                if process == group.process:
                    self._rows[source] = self._buffers.take(self._rows[group.local[0]])
                    source_process = group.address(group.owners[source])
                    operations.append(dist.P2POp(dist.irecv, self._rows[source], source_process, tag=source))
                    received.append(source)
                elif group.owners[source] == group.process:
                    operations.append(dist.P2POp(dist.isend, self._rows[source], group.address(process), tag=source))
                    received.append(None)
        works = dist.batch_isend_irecv(operations) if operations else []
        if len(works) < len(operations):  # NCCL joins them into one
            works = works * len(operations)
        self._arriving |= {source: work for source, work in zip(received, works, strict=True) if source is not None}
        return [work for source, work in zip(received, works, strict=True) if source is None]

    def _is_local(self) -> NDArray[np.bool_]:
        return np.isin(np.arange(self._group.num_workers), self._group.local)


def _wait(works: list[dist.Work]) -> None:
    for work in works:
        work.wait()
