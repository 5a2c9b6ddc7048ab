"""MATCHA's activation probabilities at 128 workers of degree 8, compared with cvxpy if installed; colourings of G0.

    python -m benchmarks.matcha [--workers 128] [--degree 8] [--budgets 0.05 0.5 0.9] [--solvers SCS]

Times are CPU seconds. cvxpy solves the same problem as a semidefinite programme.
"""

import argparse
import importlib.util
import time

import networkx as nx
import numpy as np

from echelon.algorithms import matcha, topology


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=128)
    parser.add_argument("--degree", type=int, default=8)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.5, 0.9])
    parser.add_argument("--solvers", nargs="*", default=["SCS"])
    arguments = parser.parse_args()
    began = time.process_time()
    matchings = topology.matchings(topology.build("regular", arguments.workers, degree=arguments.degree))
    print(f"{arguments.workers} workers, degree {arguments.degree}: {len(matchings)} matchings", end="")
    print(f" in {time.process_time() - began:.2f} CPU-s")
    for budget in arguments.budgets:
        began = time.process_time()
        plan = matcha.solve(matchings, arguments.workers, budget)
        ours = time.process_time() - began
        print(
            f"budget {budget}: lambda_2 {plan.lambda_2:.9f}, gap {plan.gap:.1e}, rho {plan.rho:.6f}, {ours:.2f} CPU-s"
        )
        if importlib.util.find_spec("cvxpy") is None:
            continue
        for solver in arguments.solvers:
            began = time.process_time()
            reached = semidefinite(matchings, arguments.workers, budget, solver)
            seconds = time.process_time() - began
            print(f"  cvxpy {solver}: {reached}, {seconds:.2f} CPU-s ({seconds / ours:.0f} times as long)")
    if importlib.util.find_spec("cvxpy") is None:
        print("cvxpy is not installed: nothing to compare with")
    published, coloured = decompositions(60)
    print(f"G0 at budget 0.5: lambda_2 {published:.4f} with the published matchings, ", end="")
    print(f"{min(coloured):.4f} to {max(coloured):.4f} over {len(coloured)} colourings of relabelled G0")


def decompositions(draws: int) -> tuple[float, list[float]]:
    """Return lambda_2 of G0 at budget 0.5 with its published matchings, and with colourings of relabelled copies."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        graph = topology.build("edges", 8, edges=generator.permutation(8)[list(topology.g0().edges)].tolist())
        found.append(matcha.solve(topology.matchings(graph), 8, 0.5).lambda_2)
    return matcha.solve(topology.matchings(topology.g0()), 8, 0.5).lambda_2, found


def semidefinite(matchings: list[list[tuple[int, int]]], n: int, budget: float, solver: str) -> str:
    """Solve max s, sum_j p_j L_j - s (I - J) >= 0; return which lambda_2 its p reaches once made feasible."""
    import cvxpy  # type: ignore[import-not-found, unused-ignore]

    laplacians = []
    for edges in matchings:
        graph = nx.empty_graph(n)
        graph.add_edges_from(edges)
        laplacians.append(nx.laplacian_matrix(graph, nodelist=range(n)).toarray())
    p, s = cvxpy.Variable(len(matchings)), cvxpy.Variable()
    expected = sum(p[j] * laplacians[j] for j in range(len(matchings)))
    limits = [expected - s * (np.eye(n) - 1 / n) >> 0, cvxpy.sum(p) <= budget * len(matchings), p >= 0, p <= 1]
    problem = cvxpy.Problem(cvxpy.Maximize(s), limits)
    try:
        problem.solve(solver=solver)
    except cvxpy.error.SolverError as error:
        return f"failed ({error})"
    feasible = np.clip(p.value, 0, 1)
    feasible *= min(1, budget * len(matchings) / feasible.sum())
    reached = np.linalg.eigvalsh(np.tensordot(feasible, np.array(laplacians), axes=1))[1]
    return f"lambda_2 {reached:.9f} ({problem.status})"


if __name__ == "__main__":
    main()
