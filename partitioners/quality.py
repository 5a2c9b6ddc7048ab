"""Quality of a partition: sizes, class proportions and how well each part represents its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .base import FloatArray, IntArray, check_features, check_labels, check_ratios

if TYPE_CHECKING:
    from rich.table import Table

_EXACT = 8192  # all pairs are compared in classes of up to this many samples
_EVALUATED = 2048  # samples on which coverage is evaluated in larger classes
_QUERIES = 1000  # samples classified by their nearest neighbours
_SHOWN = 4000  # samples in the projection


@dataclass(frozen=True)
class Projection:
    """Samples in the plane of the first two principal components: (m, 2) coordinates, rank and class of each.

    The class is its position in `Report.classes`.
    """

    coordinates: npt.NDArray[np.float32]
    owner: IntArray
    labels: IntArray

    def to_json(self) -> dict[str, list[float] | list[int]]:
        """Return lists by sample; coordinates have three decimals, as a fraction of the largest."""
        x, y = np.round(self.coordinates.T / max(float(np.abs(self.coordinates).max()), 1e-30), 3).tolist()
        return {"x": x, "y": y, "rank": self.owner.tolist(), "class": self.labels.tolist()}


@dataclass(frozen=True)
class Similarity:
    """Results of comparing features; lists are by rank, `random_` values are for random parts of the same sizes.

    Parameters
    ----------
    mmd2 : list of N lists of L floats
        Squared maximum mean discrepancy of the worker's part of each class to the class, under exp(-d^2 / bandwidth);
        NaN if the part has no sample of the class.
    random_mmd2 : list of N lists of L floats
        Its expectation for random parts, in closed form.
    coverage, random_coverage : list of N floats
        Mean over all samples of the similarity to the most similar sample of their class in the worker's part, in
        [0, 1]: f / n of facility location.
    neighbour_accuracy, random_neighbour_accuracy : list of N floats
        Accuracy of a 1-nearest-neighbour classifier of the worker's samples, on up to 1000 other samples.
    """

    mmd2: list[list[float]]
    random_mmd2: list[list[float]]
    coverage: list[float]
    random_coverage: list[float]
    neighbour_accuracy: list[float]
    random_neighbour_accuracy: list[float]


@dataclass(frozen=True)
class Report:
    """Quality of one partition; lists are by rank.

    Parameters
    ----------
    sizes : list of N ints
    size_errors : list of N floats
        Samples above (below, if negative) the worker's share by its ratio.
    classes : list of L ints
    class_counts : list of N lists of L ints
    class_variations : list of N floats
        Total variation distance of the worker's class proportions to those of the whole, in [0, 1]; 1 if it has no
        samples.
    similarity : Similarity, optional
        None if no features were given.
    projection : Projection, optional
        None if no features were given, or they have fewer than two columns.
    """

    sizes: list[int]
    size_errors: list[float]
    classes: list[int]
    class_counts: list[list[int]]
    class_variations: list[float]
    similarity: Similarity | None
    projection: Projection | None

    def to_json(self) -> dict[str, object]:
        """Return plain numbers and lists, without NaN: the summary first, then the values by rank."""
        summary: dict[str, object] = {
            "size_error_worst": max(abs(error) for error in self.size_errors),
            "class_variation_mean": float(np.mean(self.class_variations)),
            "class_variation_worst": max(self.class_variations),
        }
        detail: dict[str, object] = {
            "size_errors": self.size_errors,
            "class_variations": self.class_variations,
            "classes": self.classes,
            "class_counts": self.class_counts,
        }
        if (similarity := self.similarity) is not None:
            for key, values in (("mmd2", similarity.mmd2), ("random_mmd2", similarity.random_mmd2)):
                summary[f"{key}_mean"], summary[f"{key}_worst"] = float(np.nanmean(values)), float(np.nanmax(values))
                detail[key] = [mean_or_none(row) for row in values]
            for key in ("coverage", "random_coverage", "neighbour_accuracy", "random_neighbour_accuracy"):
                summary[f"{key}_mean"], detail[key] = float(np.mean(getattr(similarity, key))), getattr(similarity, key)
        if self.projection is not None:
            detail["projection"] = self.projection.to_json()
        return summary | detail

    def table(self) -> "Table":
        """Return one row per worker and one for random parts of the same sizes, as a rich table."""
        from .quality_table import table

        return table(self)


def report(
    parts: Sequence[npt.ArrayLike],
    labels: npt.ArrayLike,
    ratios: Sequence[float],
    features: npt.ArrayLike | None = None,
    *,
    bandwidth: float | None = None,
    seed: int = 0,
) -> Report:
    """Measure the quality of a partition.

    The cost is bounded: in classes of more than 8192 samples, MMD^2 is estimated from 1024 random Fourier frequencies
    and coverage from 2048 samples; 1000 samples are classified, and 4000 are shown.  They are drawn with `seed`.

    Parameters
    ----------
    parts : N arrays of sample indices, by rank
        Every sample in exactly one of them.
    labels : (n,) array of int
        Class of each sample.
    ratios : sequence of N floats
        Capability of each worker.
    features : (n, ...) array, optional
        One row of real numbers per sample.  None: only sizes and classes are measured.
    bandwidth : float, optional
        Bandwidth of the kernel exp(-d^2 / bandwidth).  None: the median squared distance within the class.
    seed : int
        Seed of the samples drawn, and of the random parts that coverage and accuracy are compared with.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If the parts do not hold every sample exactly once, or do not match the ratios in number.

    Examples
    --------
    >>> from echelon.partitioners import quality
    >>> report = quality.report([[0, 1, 2], [3]], labels=[5, 5, 9, 9], ratios=[2, 1])
    >>> report.sizes, report.class_counts
    ([3, 1], [[2, 1], [0, 1]])
    """
    validated, shares = check_labels(labels), check_ratios(ratios)
    owner = _owner(parts, len(validated), len(shares))
    sizes = np.bincount(owner, minlength=len(shares))
    classes, label_of, totals = np.unique(validated, return_inverse=True, return_counts=True)
    counts = np.zeros((len(shares), len(classes)), dtype=np.int64)
    np.add.at(counts, (owner, label_of), 1)
    proportions = counts / np.maximum(sizes, 1)[:, None]
    variations = np.where(sizes > 0, np.abs(proportions - totals / totals.sum()).sum(axis=1) / 2, 1.0)
    similarity, projection = None, None
    if features is not None:
        rows, rng = check_features(features, len(validated)), np.random.default_rng(seed)
        similarity = _compare(rows, validated, owner, len(shares), bandwidth, rng)
        projection = _project(rows, label_of, owner, rng)
    return Report(
        sizes=sizes.tolist(),
        size_errors=(sizes - len(validated) * shares).tolist(),
        classes=classes.tolist(),
        class_counts=counts.tolist(),
        class_variations=variations.tolist(),
        similarity=similarity,
        projection=projection,
    )


def mean_or_none(values: Sequence[float]) -> float | None:
    """Return the mean of the values that are not NaN, or None if all are."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else None


def _owner(parts: Sequence[npt.ArrayLike], samples: int, workers: int) -> IntArray:
    if len(parts) != workers:
        raise ValueError(f"parts must be one for each of the {workers} ratios; got {len(parts)}")
    arrays = [np.asarray(part, dtype=np.int64) for part in parts]
    indices = np.concatenate(arrays)
    if not np.array_equal(np.sort(indices), np.arange(samples)):
        raise ValueError(f"parts must hold each of the {samples} samples exactly once; got {len(indices)} indices")
    owner = np.empty(samples, dtype=np.int64)
    owner[indices] = np.repeat(np.arange(workers), [len(array) for array in arrays])
    return owner


def _compare(
    rows: npt.NDArray[np.generic],
    labels: IntArray,
    owner: IntArray,
    workers: int,
    bandwidth: float | None,
    rng: np.random.Generator,
) -> Similarity:
    """Compare the parts with the classes, and with random parts that have equally many samples of each class."""
    from .measures import neighbour_accuracy

    classes = np.unique(labels)
    mmd2, expected = np.empty((workers, len(classes))), np.empty((workers, len(classes)))
    covered, shuffled = np.zeros((2, workers)), owner.copy()
    for column, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        shuffled[members] = rng.permutation(owner[members])
        pair = [owner[members], shuffled[members]]
        mmd2[:, column], expected[:, column], values = _compare_class(rows[members], pair, workers, bandwidth, rng)
        covered += values * len(members) / len(labels)
    queries = np.sort(rng.choice(len(labels), min(len(labels), _QUERIES), replace=False))
    accuracies = neighbour_accuracy(rows, labels, [owner, shuffled], workers, queries)
    return Similarity(
        mmd2=mmd2.tolist(),
        random_mmd2=expected.tolist(),
        coverage=covered[0].tolist(),
        random_coverage=covered[1].tolist(),
        neighbour_accuracy=accuracies[0].tolist(),
        random_neighbour_accuracy=accuracies[1].tolist(),
    )


def _compare_class(
    rows: npt.NDArray[np.generic],
    owners: list[IntArray],
    workers: int,
    bandwidth: float | None,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return MMD^2 of the parts, its expectation for random parts, and the coverage of the parts and of random ones."""
    from . import measures
    from .submodular import kernel, matrix_free

    points, n = kernel.embed(rows, "gaussian"), len(rows)
    if n <= _EXACT:
        distances = kernel.squared_distances(points)
        s = kernel.to_similarity(distances, "gaussian", bandwidth or kernel.median_distance(distances))
    else:
        width = bandwidth or matrix_free.estimated_bandwidth(points)
        evaluated = np.sort(rng.choice(n, _EVALUATED, replace=False))
        s = kernel.to_similarity(kernel.squared_distances(points, evaluated), "gaussian", width)
    (means, covered), (_, covered_by_random) = (measures.compare_rows(s, owner, workers) for owner in owners)
    if n <= _EXACT:
        whole = s.mean(axis=1, dtype=np.float64)
        mmd2, mean_similarity = measures.mmd2(means, whole, owners[0]), float(whole.mean())
    else:
        centres = measures.fourier_means(points.vectors, width, owners[0], workers, rng)
        mmd2 = np.square(centres[:-1] - centres[-1]).sum(axis=1)
        mean_similarity = float(np.square(centres[-1]).sum())
    expected = measures.random_mmd2(np.bincount(owners[0], minlength=workers), n, mean_similarity)
    return mmd2, np.where(np.isfinite(expected), expected, np.nan), np.array([covered, covered_by_random])


def _project(
    rows: npt.NDArray[np.generic], labels: IntArray, owner: IntArray, rng: np.random.Generator
) -> Projection | None:
    from .submodular.features import pca

    shown = np.sort(rng.choice(len(rows), min(len(rows), _SHOWN), replace=False))
    if min(len(shown), rows.shape[1]) < 2:
        return None
    return Projection(pca(rows[shown], 2, rng), owner[shown], labels[shown])
