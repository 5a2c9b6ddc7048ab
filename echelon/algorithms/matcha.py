"""MATCHA: activation probabilities of the matchings of a graph under a communication budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from echelon.algorithms.connectivity import require_connected
from echelon.algorithms.mixing import Matrix
from echelon.algorithms.seeds import rng

Vector = NDArray[np.float64]
Matchings = Sequence[Sequence[tuple[int, int]]]

_GAP = 1e-7  # relative optimality gap at which the search stops
_ROUNDS = 500  # of cutting planes; 40 to 200 are usual
_EIGENVECTORS = 4  # cuts per round: lambda_2 is a multiple eigenvalue at the optimum
_STEP = 0.3  # damping of the steps towards the linear programme's solution: a third of the rounds of full steps
_LP_TOLERANCE = 1e-10  # the smallest that HiGHS accepts; with its default the gap stalls at 1e-7


@dataclass(frozen=True)
class MatchaPlan:
    """Activation probabilities of the matchings, and the edge weight.

    Attributes
    ----------
    probabilities : numpy.ndarray
        (M,) activation probability of each matching.
    alpha : float
        Weight of an active edge: W = I - alpha sum_j B_j L_j.
    rho : float
        lambda_max(E[W'W] - J): bound on the factor by which the mean square disagreement shrinks per round.
    lambda_2 : float
        Algebraic connectivity of the expected graph sum_j p_j L_j.
    gap : float
        Certificate: no feasible probabilities exceed lambda_2 (1 + gap).
    """

    probabilities: Vector
    alpha: float
    rho: float
    lambda_2: float
    gap: float


def solve(matchings: Matchings, num_workers: int, budget: float) -> MatchaPlan:
    """Maximise lambda_2(sum_j p_j L_j) over sum_j p_j <= budget M, 0 <= p <= 1; then minimise rho(alpha).

    The first problem is concave: cutting planes v' (sum_j p_j L_j) v >= lambda_2 with the lowest eigenvectors v, a
    linear programme (HiGHS) per round, and steps damped towards the best point so far; its duals certify the gap. The
    second is convex in a: rho(a) = lambda_max(I - 2a Lbar + a^2 (Lbar^2 + 2 Ltil) - J).

    Parameters
    ----------
    matchings : sequence of sequences of (int, int)
        M node-disjoint matchings whose union is connected, as `topology.matchings` returns them.
    num_workers : int
        N.
    budget : float
        Communication budget in (0, 1]: expected fraction of active matchings per round.

    Returns
    -------
    MatchaPlan
        For N = 1 an empty plan: no probabilities, alpha 0.

    Raises
    ------
    ValueError
        For a budget out of range, an edge outside 0..N-1, matchings that are not node-disjoint, or a union that is not
        connected (its components are named).

    References
    ----------
    J. Wang et al., MATCHA: speeding up decentralized SGD via matching decomposition sampling, arXiv 1905.09435,
    equations 4 (probabilities) and 6 (alpha).
    """
    if not 0 < budget <= 1:
        raise ValueError(f"strategy.communication_budget must lie in (0, 1]; got {budget}")
    _check(matchings, num_workers)
    if num_workers == 1:
        return MatchaPlan(np.zeros(0), alpha=0.0, rho=0.0, lambda_2=0.0, gap=0.0)
    laplacians = np.array([_laplacian(matching, num_workers) for matching in matchings])
    probabilities, lambda_2, gap = _probabilities(matchings, laplacians, budget)
    alpha, rho = _edge_weight(laplacians, probabilities)
    return MatchaPlan(probabilities, alpha, rho, lambda_2, gap)


def active(plan: MatchaPlan, seed: int, round_index: int) -> NDArray[np.bool_]:
    """Draw the active matchings of a round: (M,) bool, the same for all workers, a function of (seed, round_index)."""
    return rng(seed, "matching", round_index).random(len(plan.probabilities)) < plan.probabilities


def active_graph(matchings: Matchings, active: NDArray[np.bool_], n: int) -> nx.Graph:
    """Return the graph of the active matchings on ranks 0..n-1."""
    graph = nx.empty_graph(n)
    graph.add_edges_from(edge for matching, on in zip(matchings, active, strict=True) if on for edge in matching)
    return graph


def mixing_matrix(plan: MatchaPlan, matchings: Matchings, active: NDArray[np.bool_], n: int) -> Matrix:
    """Return W = I - alpha sum of the active L_j: (n, n), symmetric, doubly stochastic."""
    edges = [edge for matching, on in zip(matchings, active, strict=True) if on for edge in matching]
    return np.eye(n) - plan.alpha * _laplacian(edges, n)


def _check(matchings: Matchings, n: int) -> None:
    for index, matching in enumerate(matchings):
        ranks = [rank for edge in matching for rank in edge]
        if not all(0 <= rank < n for rank in ranks):
            raise ValueError(f"matchings must join ranks in 0..{n - 1}; got {list(matching)} as matching {index}")
        if len(set(ranks)) < len(ranks):
            raise ValueError(f"matchings must be node-disjoint; got {list(matching)} as matching {index}")
    everything = np.ones(len(matchings), dtype=np.bool_)
    require_connected(
        active_graph(matchings, everything, n), "the union of the matchings", "MATCHA cannot reach consensus"
    )


def _laplacian(edges: Sequence[tuple[int, int]], n: int) -> Matrix:
    L = np.zeros((n, n))
    for i, j in edges:
        L[[i, j], [i, j]] += 1
        L[[i, j], [j, i]] -= 1
    return L


def _probabilities(matchings: Matchings, laplacians: NDArray[np.float64], budget: float) -> tuple[Vector, float, float]:
    """Return (p, lambda_2, gap). Solves for u = p / budget, so that accuracy is relative to the budget."""
    heads, tails = np.array([edge for matching in matchings for edge in matching]).T
    starts = np.cumsum([0] + [len(matching) for matching in matchings])[:-1]
    u = best_u = np.ones(len(matchings))
    best, upper = 0.0, np.inf
    cuts = np.zeros((0, len(matchings)))
    for _ in range(_ROUNDS):
        values, vectors = _lowest(np.tensordot(u, laplacians, axes=1))
        if values[0] > best:
            best, best_u = float(values[0]), u
        if upper - best <= _GAP * best:
            break
        differences = (vectors[heads] - vectors[tails])[:, values < upper]
        cuts = np.vstack([cuts, np.add.reduceat(differences**2, starts, axis=0).T])
        relaxed, duals = _relaxation(cuts, budget)
        upper = min(upper, _bound(duals @ cuts, budget))
        u = _STEP * relaxed + (1 - _STEP) * best_u
    return budget * best_u, budget * best, max(0.0, upper / best - 1)


def _lowest(L: Matrix) -> tuple[Vector, Matrix]:
    """Return the lowest eigenpairs of a Laplacian among vectors of sum 0: only those give valid cuts."""
    lifted = L + (1 + np.trace(L)) / len(L)  # gives the constant vector the largest eigenvalue
    values, vectors = np.linalg.eigh(lifted)
    count = min(_EIGENVECTORS, len(L) - 1)
    return values[:count], vectors[:, :count]


def _relaxation(cuts: Matrix, budget: float) -> tuple[Vector, Vector]:
    """Maximise t over cuts @ u >= t, sum u <= M, 0 <= u <= 1 / budget; return (u, weights of the cuts)."""
    from scipy.optimize import linprog  # here, because it is slow to import and other strategies do not need it

    count, m = cuts.shape
    result = linprog(
        np.append(np.zeros(m), -1.0),
        A_ub=np.vstack([np.column_stack([-cuts, np.ones(count)]), np.append(np.ones(m), 0.0)]),
        b_ub=np.append(np.zeros(count), m),
        bounds=[(0, 1 / budget)] * m + [(None, None)],
        method="highs-ds",
        options={
            "presolve": False,
            "primal_feasibility_tolerance": _LP_TOLERANCE,
            "dual_feasibility_tolerance": _LP_TOLERANCE,
        },
    )
    u = np.clip(result.x[:m], 0, 1 / budget)
    duals = np.maximum(-result.ineqlin.marginals[:count], 0)
    return u * min(1.0, m / u.sum()), duals / duals.sum()


def _bound(values: Vector, budget: float) -> float:
    """Return max values @ u over sum u <= M, 0 <= u <= 1 / budget: a fractional knapsack.

    With values_j = <Y, L_j> for a mean Y of cuts v v' it bounds lambda_2 from above whatever the accuracy of the duals.
    """
    m = len(values)
    amounts = np.diff(np.minimum(np.arange(m + 1) / budget, m))
    return float(np.sort(values)[::-1] @ amounts)


def _edge_weight(laplacians: NDArray[np.float64], p: Vector) -> tuple[float, float]:
    """Return (alpha, rho(alpha))."""
    from scipy.optimize import minimize_scalar

    mean = np.tensordot(p, laplacians, axes=1)
    square = mean @ mean + 2 * np.tensordot(p * (1 - p), laplacians, axes=1)  # E[(sum_j B_j L_j)^2]; L_j^2 = 2 L_j
    constant = np.eye(len(mean)) - 1 / len(mean)
    highest = np.linalg.eigvalsh(mean)[-1]
    result = minimize_scalar(
        lambda a: np.linalg.eigvalsh(constant - 2 * a * mean + a * a * square)[-1],
        bounds=(0, 2 / highest),  # above this bound its eigenvector alone gives rho > 1 = rho(0)
        method="bounded",
        options={"xatol": 1e-12},
    )
    return float(result.x), float(result.fun)
