"""Rows are fetched from the workers that have them, once, and combined in rank order."""

import networkx as nx
import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from echelon.core.mixing import Mean, TrimmedMean
from echelon.peer.exchange import Exchange
from echelon.peer.group import Group
from tests.pool import Pool

OWNERS = (2, 0, 1, 0, 2)
ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
SPARSE = np.array([[0.5, 0, 0.5, 0, 0], [0, 1, 0, 0, 0], [0.25, 0, 0.5, 0, 0.25], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]])
GRAPH = nx.Graph([(0, 1), (1, 2), (3, 4)])


def exchange(owners: tuple[int, ...] = OWNERS) -> tuple[Group, Exchange]:
    group = Group(owners)
    return group, Exchange({rank: torch.tensor(ROWS[rank]) for rank in group.local}, group)


def combined(matrix: NDArray[np.float64] | Mean | TrimmedMean) -> dict[int, list[float]]:
    return {rank: row.tolist() for rank, row in exchange()[1].combine(matrix).items()}


@pytest.mark.parametrize("matrix", [SPARSE, np.full((5, 5), 0.2), Mean(np.array([0.1, 0.4, 0.5, 0.0, 0.0]))])
def test_each_process_gets_the_rows_of_its_workers(three: Pool, matrix: NDArray[np.float64] | Mean) -> None:
    expected = (matrix if isinstance(matrix, np.ndarray) else matrix.toarray()) @ ROWS
    for process, found in enumerate(three.call(combined, matrix)):
        assert sorted(found) == [rank for rank, owner in enumerate(OWNERS) if owner == process]
        for rank, row in found.items():
            np.testing.assert_allclose(row, expected[rank], rtol=1e-6)


def test_a_mean_is_the_same_everywhere(three: Pool) -> None:
    found = [row for rows in three.call(combined, Mean(np.full(5, 0.2))) for row in rows.values()]
    assert all(row == found[0] for row in found)


def test_a_trimmed_mean_is_refused(three: Pool) -> None:
    with pytest.raises(ValueError, match="a trimmed mean needs the models of all workers in one place; only a server"):
        three.call(combined, TrimmedMean(np.arange(5), 1))


def sent() -> list[tuple[int, int]]:
    """Return (rank, process) of what this process sends for two combinations of the same rows."""
    _, rows = exchange()
    found: list[tuple[int, int]] = []
    start = dist.batch_isend_irecv

    def noted(operations: list[dist.P2POp]) -> list[dist.Work]:
        found.extend((operation.tag, operation.peer) for operation in operations if operation.op is dist.isend)
        return start(operations)

    dist.batch_isend_irecv = noted  # type: ignore[assignment]
    try:
        rows.combine(SPARSE)
        rows.combine(SPARSE)
        rows.combine(np.eye(5))
    finally:
        dist.batch_isend_irecv = start
    return found


def test_a_row_is_sent_once_to_each_process_that_needs_it(three: Pool) -> None:
    assert [sorted(found) for found in three.call(sent)] == [[], [(2, 2)], [(0, 1), (4, 1)]]


def distances() -> NDArray[np.float64]:
    return exchange()[1].distances(GRAPH)


def test_distances_along_the_edges(three: Pool) -> None:
    expected = np.zeros((5, 5))
    for i, j in GRAPH.edges:
        expected[i, j] = expected[j, i] = np.linalg.norm(ROWS[i] - ROWS[j])
    for found in three.call(distances):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
