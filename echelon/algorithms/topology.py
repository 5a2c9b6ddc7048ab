"""Graphs on ranks 0..N-1 by name, and re-exported schedules of them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np

from echelon.algorithms.colouring import matchings
from echelon.algorithms.connectivity import require_connected
from echelon.algorithms.one_peer import OnePeer
from echelon.algorithms.schedules import Cycle, RandomMatching, Schedule, check_connected, rotation, static
from echelon.algorithms.seeds import rng

__all__ = [
    "SCHEDULES",
    "TOPOLOGIES",
    "Cycle",
    "OnePeer",
    "RandomMatching",
    "Schedule",
    "build",
    "check_connected",
    "g0",
    "g0_copies",
    "legacy_alternating",
    "matchings",
    "rotation",
    "schedule",
    "static",
]

Edge = tuple[int, int]

# The eight-node graph of the MATCHA and AL-DSGD papers and its two copies, with their published matchings in the
# published order.
_G0: tuple[tuple[Edge, ...], ...] = (
    ((1, 5), (6, 7), (0, 4), (2, 3)),
    ((1, 7), (3, 6)),
    ((0, 1), (3, 7), (5, 6)),
    ((1, 2), (0, 7)),
    ((1, 3),),
)
_G1: tuple[tuple[Edge, ...], ...] = (
    ((4, 6), (2, 5), (1, 3), (0, 7)),
    ((2, 4), (0, 5)),
    ((3, 4), (0, 2), (5, 6)),
    ((4, 7), (2, 3)),
    ((0, 4),),
)
_G2: tuple[tuple[Edge, ...], ...] = (
    ((2, 3), (0, 4), (6, 7), (1, 5)),
    ((3, 4), (0, 1)),
    ((3, 6), (1, 4), (0, 2)),
    ((3, 5), (4, 6)),
    ((1, 3),),
)
_DRAWS = 100  # attempts at a connected random graph


def g0() -> nx.Graph:
    """Return G0, the papers' graph of eight workers (12 edges, degrees 1 to 5), with its published matchings."""
    return _published(_G0)


def g0_copies() -> tuple[nx.Graph, nx.Graph, nx.Graph]:
    """Return G0 and its two relabelled copies from AL-DSGD's released code."""
    return _published(_G0), _published(_G1), _published(_G2)


def build(name: str, n: int, *, seed: int = 0, **params: Any) -> nx.Graph:
    """Build a graph on ranks 0..n-1.

    Parameters
    ----------
    name : str
        ``ring``, ``torus`` (rows x columns, as square as n allows), ``complete``, ``star`` (hub 0), ``path``, ``er``
        (Erdos-Renyi), ``geometric`` (in the unit square), ``regular`` (random), ``exponential`` (i to i + 2^k mod n),
        ``g0`` (n = 8) or ``edges``.
    n : int
        Number of workers, at least 1.
    seed : int
        Root seed of the run, for random graphs; these are redrawn until connected.
    **params
        ``p`` (er: edge probability, default 0.5), ``radius`` (geometric, default 0.5), ``degree`` (regular, default 3),
        ``edges`` (edges: pairs of ranks; may be disconnected; schedules check it).

    Returns
    -------
    networkx.Graph
        Nodes 0..n-1 in order, edges in sorted order.

    Raises
    ------
    ValueError
        For an unknown name or parameter, a value out of range, an invalid edge (named), or a random graph that is not
        connected after 100 draws (its components are named).
    """
    if name not in _BUILDERS:
        raise ValueError(f"topology must be one of {', '.join(_BUILDERS)}; got {name!r}")
    if n < 1:
        raise ValueError(f"workers must be at least 1; got {n}")
    builder, defaults = _BUILDERS[name]
    for key, value in params.items():
        if key not in defaults:
            allowed = ", ".join(defaults) or "none"
            raise ValueError(f"unknown parameter topology.{key} of {name} (its parameters: {allowed}); got {value!r}")
    drawn = builder(n, rng(seed, "rotation", 0), **{**defaults, **params})
    return _on_ranks(n, drawn.edges, **drawn.graph)


def legacy_alternating(graph: nx.Graph) -> Cycle:
    """Alternate the first two matchings of a graph: a bug of AL-DSGD's released "D-PSGD", to reproduce its effect.

    For G0 these are the first two published matchings, which separate {0, 4} from the other workers. The union is not
    checked for connectivity. Do not use it for training.
    """
    return Cycle(tuple(_on_ranks(len(graph), matching) for matching in matchings(graph)[:2]) or (graph,))


def schedule(name: str, n: int, *, kind: str | None = None, rotate: int = 3, seed: int = 0, **params: Any) -> Schedule:
    """Create a schedule from configuration values and check that its union is connected.

    Parameters
    ----------
    name : str
        A name accepted by `build`; ``g0_rotating``: the papers' three copies of G0 in turn; or ``auto``: that for eight
        workers, ``exponential`` for any other number.
    n : int
        Number of workers.
    kind : str
        ``static`` (default); ``rotation`` (of `rotate` relabelled copies); ``random_matching`` (one per round);
        ``one_peer`` (see :class:`echelon.algorithms.one_peer.OnePeer`; its edges need not be of the graph);
        ``legacy_alternating`` (see there; not checked). ``g0_rotating`` is always a ``rotation``.
    rotate : int
        Number of copies in a rotation; 3 for ``g0_rotating``.
    seed : int
        The run's root seed.
    **params
        Passed to `build`.

    Returns
    -------
    Schedule
        ``graph(round)`` for rounds from 0.

    Raises
    ------
    ValueError
        As `build`; for an unknown kind; if the union over one period is not connected (the components are named).
    """
    if name == "auto":
        eight = "g0" if kind else "g0_rotating"  # another schedule is one of G0
        name = eight if n == len(g0()) else "exponential"
    kind = kind or ("rotation" if name == "g0_rotating" else "static")
    if kind not in SCHEDULES:
        raise ValueError(f"topology.schedule must be one of {', '.join(SCHEDULES)}; got {kind!r}")
    if name == "g0_rotating":
        return _g0_rotating(n, kind, rotate, params)
    graph = build(name, n, seed=seed, **params)
    if kind == "one_peer":
        return OnePeer(n)
    if kind == "legacy_alternating":
        return legacy_alternating(graph)
    result: Schedule
    if kind == "random_matching":
        result = RandomMatching(graph, seed)
    else:
        result = rotation(graph, rotate if kind == "rotation" else 1, seed)
    check_connected(result)
    return result


def _g0_rotating(n: int, kind: str, rotate: int, params: Mapping[str, Any]) -> Cycle:
    copies = g0_copies()
    if n != len(copies[0]):
        raise ValueError(f"topology=g0_rotating needs workers={len(copies[0])}; got {n} (try topology=ring)")
    if kind != "rotation":
        raise ValueError(
            f"topology.schedule must be rotation for topology=g0_rotating; got {kind} "
            f"(try topology=g0 topology.schedule={kind})"
        )
    if rotate != len(copies):
        raise ValueError(
            f"topology.rotate must be {len(copies)} for topology=g0_rotating, the papers' copies; got {rotate} "
            f"(try topology=g0 topology.schedule=rotation topology.rotate={rotate})"
        )
    build("g0", n, **params)  # refuses parameters
    return Cycle(copies)


def _published(parts: Sequence[Sequence[Edge]]) -> nx.Graph:
    return _on_ranks(8, (edge for matching in parts for edge in matching), matchings=parts)


def _on_ranks(n: int, edges: Iterable[Sequence[int]], **attributes: Any) -> nx.Graph:
    graph = nx.empty_graph(n)
    graph.graph.update(attributes)
    graph.add_edges_from(sorted({(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]}))
    return graph


def _torus(n: int, generator: np.random.Generator) -> nx.Graph:
    rows = max(divisor for divisor in range(1, math.isqrt(n) + 1) if n % divisor == 0)
    grid = nx.grid_2d_graph(rows, n // rows, periodic=True)
    return nx.convert_node_labels_to_integers(grid, ordering="sorted")


def _er(n: int, generator: np.random.Generator, p: float) -> nx.Graph:
    if not 0 <= p <= 1:
        raise ValueError(f"topology.p must lie in [0, 1]; got {p}")
    return _connected(
        generator, lambda seed: nx.gnp_random_graph(n, p, seed=seed), f"er with p={p}", "raise topology.p"
    )


def _geometric(n: int, generator: np.random.Generator, radius: float) -> nx.Graph:
    if not radius >= 0:
        raise ValueError(f"topology.radius must be at least 0; got {radius}")
    return _connected(
        generator,
        lambda seed: nx.random_geometric_graph(n, radius, seed=seed),
        f"geometric with radius={radius}",
        "raise topology.radius",
    )


def _regular(n: int, generator: np.random.Generator, degree: int) -> nx.Graph:
    if not 0 <= degree < n:
        raise ValueError(f"topology.degree must be below workers={n}; got {degree}")
    if degree * n % 2:
        raise ValueError(f"topology.degree x workers must be even; got {degree} x {n}")
    return _connected(
        generator,
        lambda seed: nx.random_regular_graph(degree, n, seed=seed),
        f"regular with degree={degree}",
        "raise topology.degree",
    )


def _connected(generator: np.random.Generator, draw: Callable[[int], nx.Graph], subject: str, remedy: str) -> nx.Graph:
    for seed in generator.integers(2**31, size=_DRAWS).tolist():
        graph = draw(seed)
        if nx.is_connected(graph):
            break
    require_connected(graph, f"topology {subject}", f"{remedy} (tried {_DRAWS} draws)")
    return graph


def _g0(n: int, generator: np.random.Generator) -> nx.Graph:
    if n != 8:
        raise ValueError(f"topology=g0 needs workers=8; got {n} (try topology=ring)")
    return g0()


def _edges(n: int, generator: np.random.Generator, edges: Iterable[Sequence[int]]) -> nx.Graph:
    checked = [tuple(edge) for edge in edges]
    for edge in checked:
        if len(edge) != 2 or edge[0] == edge[1] or not all(0 <= rank < n for rank in edge):
            raise ValueError(f"topology.edges must be pairs of different ranks in 0..{n - 1}; got {list(edge)}")
    return nx.Graph(checked)


_BUILDERS: dict[str, tuple[Callable[..., nx.Graph], dict[str, Any]]] = {
    "ring": (lambda n, _: nx.cycle_graph(n), {}),
    "torus": (_torus, {}),
    "complete": (lambda n, _: nx.complete_graph(n), {}),
    "star": (lambda n, _: nx.star_graph(n - 1), {}),
    "path": (lambda n, _: nx.path_graph(n), {}),
    "er": (_er, {"p": 0.5}),
    "geometric": (_geometric, {"radius": 0.5}),
    "regular": (_regular, {"degree": 3}),
    "exponential": (lambda n, _: nx.circulant_graph(n, [2**k for k in range((n - 1).bit_length())]), {}),
    "g0": (_g0, {}),
    "edges": (_edges, {"edges": ()}),
}
TOPOLOGIES = (*_BUILDERS, "g0_rotating", "auto")
SCHEDULES = ("static", "rotation", "random_matching", "one_peer", "legacy_alternating")
