"""How tracking's disagreement between workers shrinks or grows on quadratics: ``python -m benchmarks.tracking``.

D-PSGD with ``correction=tracking`` and one local step per round, for workers whose losses have the same curvature L. A
disagreement along an eigenvector of the mixing matrices, with eigenvalue w in a round, is described by three numbers: x
of the models, v of their momentum, y of their corrected gradients,

    v+ = mu v + y,   x+ = w (x - lr v+),   y+ = w y + L (x+ - x),

and v+ is multiplied by w, too, where momentum is mixed. Printed is the largest factor per round over all disagreements
of 16 workers on a ring and on the one-peer schedule; above 1 it grows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.experiments.runner import print_table
from echelon.algorithms.mixing import metropolis
from echelon.algorithms.one_peer import OnePeer
from echelon.algorithms.topology import build

WORKERS = 16
CURVATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # times the learning rate
Floats = NDArray[np.float64]


def factor(eigenvalues: Sequence[float], curvature: float, momentum: float, *, mixed: bool) -> float:
    """Return the factor per round of a disagreement whose eigenvalues in the rounds of a period are given."""
    period = np.eye(3)
    for w in eigenvalues:
        v = np.array([0.0, momentum, 1.0])
        x = w * (np.array([1.0, 0.0, 0.0]) - v)  # in units in which the learning rate is 1
        y = np.array([-curvature, 0.0, w]) + curvature * x
        period = np.array([x, (w if mixed else 1.0) * v, y]) @ period
    return float(np.abs(np.linalg.eigvals(period)).max() ** (1 / len(eigenvalues)))


def spectra() -> dict[str, list[list[float]]]:
    """Return, by graph, the eigenvalues over a period of every disagreement."""
    ring = np.sort(np.linalg.eigvalsh(metropolis(build("ring", WORKERS))))[:-1]
    schedule = OnePeer(WORKERS)
    matrices = [np.asarray(schedule.matrix(index)) for index in range(schedule.period or 1)]
    # Those of the hypercube commute: the products of columns of signs are eigenvectors of all.
    signs = np.array([[(-1.0) ** bin(i & j).count("1") for j in range(WORKERS)] for i in range(1, WORKERS)])
    hypercube = [[float(row @ matrix @ row / WORKERS) for matrix in matrices] for row in signs]
    return {"ring": [[float(w)] for w in ring], "one-peer": hypercube}


def rows() -> list[list[str]]:
    """Return the rows of the table."""
    found = []
    for graph, disagreements in spectra().items():
        for momentum, mixed in ((0.0, False), (0.9, False), (0.9, True)):
            worst = [max(factor(d, c, momentum, mixed=mixed) for d in disagreements) for c in CURVATURES]
            name = "none" if not momentum else f"{momentum}, {'mixed' if mixed else 'local'}"
            found.append([graph, name, *(f"{each:.3f}" for each in worst)])
    return found


def main() -> None:
    """Print the table."""
    print_table(("graph", "momentum", *(f"lr L = {c:g}" for c in CURVATURES)), rows())


if __name__ == "__main__":
    main()
