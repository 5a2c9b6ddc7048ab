"""The table of a quality report."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from .quality import Report, mean_or_none


def table(report: Report) -> Table:
    """Return one row per worker, then their means, then random parts of the same sizes."""
    result = Table(title="Partition quality")
    for heading in ("worker", "samples", "off its share", "class variation"):
        result.add_column(heading, justify="right")
    similar = report.similarity
    for heading in ("MMD² x 1000", "coverage", "1-NN accuracy") if similar else ():
        result.add_column(heading, justify="right")
    for rank, size in enumerate(report.sizes):
        cells = [str(rank), str(size), f"{report.size_errors[rank]:+.2f}", f"{report.class_variations[rank]:.4f}"]
        if similar:
            cells += _cells(similar.mmd2[rank], similar.coverage[rank], similar.neighbour_accuracy[rank])
        result.add_row(*cells)
    result.add_section()
    error, variation = np.abs(report.size_errors).mean(), np.mean(report.class_variations)
    cells = ["mean", f"{np.mean(report.sizes):.1f}", f"{error:.2f}", f"{variation:.4f}"]
    if similar:
        parts = similar.mmd2, similar.coverage, similar.neighbour_accuracy
        random = similar.random_mmd2, similar.random_coverage, similar.random_neighbour_accuracy
        result.add_row(*cells, *_mean_cells(*parts))
        result.add_row("random", "", "", "", *_mean_cells(*random))
    else:
        result.add_row(*cells)
    return result


def _mean_cells(mmd2: list[list[float]], coverage: list[float], accuracy: list[float]) -> list[str]:
    return _cells(np.ravel(mmd2).tolist(), float(np.mean(coverage)), float(np.mean(accuracy)))


def _cells(mmd2: Sequence[float], coverage: float, accuracy: float) -> list[str]:
    mean = mean_or_none(mmd2)
    return ["-" if mean is None else f"{1000 * mean:.3f}", f"{coverage:.4f}", f"{accuracy:.3f}"]
