"""Cases side by side: what was measured, and its difference to the first case, paired by seed."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.experiments import measures
from benchmarks.experiments.runner import MakeApp, print_table, spread, sweep
from echelon.reports.run_folder import RunFolder

Case = tuple[str, ...]
Measure = Callable[[RunFolder], float]
Row = dict[str, str]

# Accuracies are means over the evaluations of the last third of the rounds, since single rounds differ by points.
CONSENSUS: Mapping[str, Measure] = {"consensus": lambda run: measures.late(run, "consensus_accuracy")}
WORKERS: Mapping[str, Measure] = {
    "mean worker": lambda run: measures.late(run, "worker_accuracy", np.mean),
    "worst worker": lambda run: measures.late(run, "worker_accuracy", np.min),
}


def compare(
    title: str,
    columns: Case,
    cases: Mapping[Case, Sequence[str]],
    options: Namespace,
    *,
    accuracies: Mapping[str, Measure],
    others: Mapping[str, Measure] | None = None,
    make_app: MakeApp | None = None,
) -> list[Row]:
    """Run cases and print their table.

    Parameters
    ----------
    title : str
        Of the table; with ``/``, the folder of its runs.
    columns : tuple of str
        What the parts of a case's name are called.
    cases : mapping
        Overrides by case; the first case is what the others are compared with.
    options : Namespace
        See :func:`benchmarks.experiments.runner.arguments`.
    accuracies : mapping
        Measures by name, between 0 and 1: shown in percent, with the difference in points and its standard error.
    others : mapping, optional
        Measures that are only shown.
    make_app : callable, optional
        See :func:`benchmarks.experiments.runner.sweep`.

    Returns
    -------
    list of dict
        One row per case, as printed.
    """
    places = {case: "/".join((title, *case)).replace(", ", "-").replace(" ", "_") for case in cases}
    runs = sweep({places[case]: overrides for case, overrides in cases.items()}, options, make_app)
    first = next(iter(places.values()))
    rows: list[Row] = []
    for case, place in places.items():
        row = dict(zip(columns, case, strict=True))
        for name, measure in (others or {}).items():
            row[name] = spread([measure(run) for run in runs[place]], 2)
        for name, measure in accuracies.items():
            own, base = (np.array([measure(run) for run in runs[of]]) for of in (place, first))
            row[f"{name} %"] = spread(own.tolist(), 1, 100)
            row[f"{name}, points"] = points(own - base)
        rows.append(row)
    print(f"\n### {title.rpartition('/')[2]}\n")
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    return rows


def points(values: NDArray[np.float64]) -> str:
    """Return mean and standard error of paired differences as text, in points."""
    error = f" ± {100 * values.std(ddof=1) / np.sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():+.1f}{error}"
