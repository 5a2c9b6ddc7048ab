"""AL-DSGD: each worker gives extra weight to its neighbours with the lowest loss and with the highest degree."""

from typing import NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from echelon.algorithms.mixing import Matrix, restrict

Ranks = NDArray[np.intp]


class Leaders(NamedTuple):
    """Leaders of each worker, (N,) ranks each; an absent or isolated worker is its own leader."""

    best: Ranks
    degree: Ranks


def leaders(
    graph: nx.Graph, losses: ArrayLike, present: ArrayLike | None = None, degree_graph: nx.Graph | None = None
) -> Leaders:
    """Find the leaders b(i), with the lowest loss, and d(i), with the highest degree, of each worker i.

    Candidates are worker i and its present neighbours. Ties go to i itself, then to the lowest rank.

    Parameters
    ----------
    graph : networkx.Graph
        The round's active graph on ranks 0..N-1.
    losses : array_like
        (N,) training losses; NaN (unknown) counts as infinite.
    present : array_like, optional
        Participating ranks; default: all.
    degree_graph : networkx.Graph, optional
        Graph that defines the degrees; default: `graph`. With MATCHA, pass the base graph of the round, of which
        `graph` contains only the active matchings. To count only present neighbours, pass ``graph.subgraph(present)``.

    Returns
    -------
    Leaders
        ``best`` and ``degree``, (N,) ranks.

    Raises
    ------
    ValueError
        If `losses` does not have one entry per worker of the graph.

    References
    ----------
    AL-DSGD, arXiv 2405.11389, section 3 (adjacent leaders).
    """
    n = len(graph)
    known = np.asarray(losses, dtype=np.float64)
    if known.shape != (n,):
        raise ValueError(f"losses must be one per worker, shape ({n},); got shape {known.shape}")
    known = np.where(np.isnan(known), np.inf, known)
    degrees = graph.degree if degree_graph is None else degree_graph.degree
    participating = set(range(n) if present is None else np.asarray(present).tolist())
    result = Leaders(np.arange(n), np.arange(n))
    for i in sorted(participating):
        candidates = [i, *sorted(participating.intersection(graph[i]))]  # min and max return the first of equals
        result.best[i] = min(candidates, key=known.__getitem__)
        result.degree[i] = max(candidates, key=degrees.__getitem__)
    return result


def operator(
    W: Matrix,
    graph: nx.Graph,
    losses: ArrayLike,
    *,
    c1: float,
    c2: float,
    p1: float,
    p2: float,
    present: ArrayLike | None = None,
    degree_graph: nx.Graph | None = None,
    gate: ArrayLike | None = None,
) -> Matrix:
    """Return the AL-DSGD step as one matrix: X+ = operator @ Y.

    With m = W Y, leaders b and d (see `leaders`): z_i = (1 - c1 - c2) m_i + c1 y_b + c2 y_d (leader weights), then
    x_i+ = z_i - p1 (z_i - y_b) - p2 (z_i - y_d) (corrective force). In closed form A W + B P_b + D P_d with
    A = (1 - p1 - p2)(1 - c1 - c2), B = (1 - p1 - p2) c1 + p1, D = (1 - p1 - p2) c2 + p2, A + B + D = 1.
    It is row- but not column-stochastic: the mean model moves towards the leaders.

    Parameters
    ----------
    W : numpy.ndarray
        (N, N) mixing matrix of the base rule (D-PSGD or MATCHA) for all workers; this function restricts it to the
        present ones.
    graph, losses, present, degree_graph
        As in `leaders`.
    c1, c2 : float
        Weights of the leaders by loss and by degree, at least 0, sum below 1.
    p1, p2 : float
        Forces towards the two leaders, at least 0, sum below 1.
    gate : array_like, optional
        (N,) booleans: where False, c1 = p1 = 0 in the worker's row. Default: all open.

    Returns
    -------
    numpy.ndarray
        (N, N). A worker without a present neighbour keeps its row of the restricted W; c and p do not apply to it.

    Raises
    ------
    ValueError
        If a weight is out of range, or `losses` does not have one entry per worker.
    """
    check_weights(c1, c2, p1, p2)
    followed = leaders(graph, losses, present, degree_graph)
    mixed = W.copy() if present is None else restrict(W, present)
    participating = set(range(len(W)) if present is None else np.asarray(present).tolist())
    led = [i for i in sorted(participating) if participating.intersection(graph[i]) - {i}]
    follows = np.ones(len(W)) if gate is None else np.asarray(gate, dtype=np.float64)
    c1s, p1s = c1 * follows[led], p1 * follows[led]
    rest = 1 - p1s - p2
    mixed[led] *= (rest * (1 - c1s - c2))[:, None]
    mixed[led, followed.best[led]] += rest * c1s + p1s
    mixed[led, followed.degree[led]] += rest * c2 + p2
    return mixed


def anchors(found: Leaders, *, l_n: float, l_d: float) -> tuple[Matrix, Matrix]:
    """Return the anchors of the in-step force and its strength for every worker.

    A worker's step adds s (x - anchor) = l_N (x - x_b) + l_D (x - x_d) to its gradient, with s = l_N + l_D and
    anchor = (l_N x_b + l_D x_d) / s. A worker that leads itself feels no force from that leader, whose term is left out
    of both: after its first step it would be pulled back to where it started.

    Parameters
    ----------
    found : Leaders
        Leaders of the previous round.
    l_n, l_d : float
        Strengths of the force towards the leaders by loss and by degree, at least 0, not both 0.

    Returns
    -------
    weights : numpy.ndarray
        (N, N), rows sum to 1: the anchors are ``weights @ X``. The own row where a worker feels no force.
    strengths : numpy.ndarray
        (N,), s; 0 where a worker leads itself.

    Raises
    ------
    ValueError
        If a strength is negative or both are 0.
    """
    for name, value in (("l_n", l_n), ("l_d", l_d)):
        if not 0 <= value < np.inf:
            raise ValueError(f"strategy.{name} must be at least 0 and finite; got {value}")
    if l_n + l_d == 0:
        raise ValueError("strategy.l_n + strategy.l_d must be above 0; got 0 + 0")
    own = np.arange(len(found.best))
    by_loss, by_degree = l_n * (found.best != own), l_d * (found.degree != own)
    strengths = by_loss + by_degree
    identity = np.eye(len(own))
    pulled = by_loss[:, None] * identity[found.best] + by_degree[:, None] * identity[found.degree]
    return np.divide(pulled, strengths[:, None], out=identity, where=strengths[:, None] > 0), strengths


def decay(value: float, rate: float, round_index: int) -> float:
    """Return value * rate^round_index: the decayed c1, c2, p1, p2, l_n or l_d in a round counted from 0.

    Raises
    ------
    ValueError
        If the rate lies outside (0, 1].
    """
    if not 0 < rate <= 1:
        raise ValueError(f"strategy.decay must lie in (0, 1]; got {rate}")
    return value * rate**round_index


def check_weights(c1: float, c2: float, p1: float, p2: float) -> None:
    """Raise ValueError, naming the key, unless all are in [0, 1), c1 + c2 < 1 and p1 + p2 < 1."""
    for name, value in (("c1", c1), ("c2", c2), ("p1", p1), ("p2", p2)):
        if not 0 <= value < 1:
            raise ValueError(f"strategy.{name} must lie in [0, 1); got {value}")
    for name, first, second in (("c", c1, c2), ("p", p1, p2)):
        if first + second >= 1:
            raise ValueError(f"strategy.{name}1 + strategy.{name}2 must be below 1; got {first} + {second}")
