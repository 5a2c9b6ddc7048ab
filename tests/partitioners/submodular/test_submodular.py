from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from partitioners import SubmodularPartitioner
from partitioners.base import check_ratios
from partitioners.submodular import kernel, matrix_free
from partitioners.submodular.greedy import graph_cut
from partitioners.submodular.partitioner import Objective, Selection, units

RNG = np.random.default_rng(0)  # never drawn from


def images(classes: int = 3, each: int = 90, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    return labels, (rng.normal(size=(classes * each, 6)) * [3, 2, 1, 1, 1, 1] + labels[:, None]).astype(np.float32)


def discrepancy(labels: np.ndarray, features: np.ndarray, parts: list[np.ndarray]) -> tuple[float, float]:
    """Mean squared MMD of the parts to their classes, and its expectation for random parts, in float64."""
    found, random = [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        s, n = kernel.similarity(features[members]).astype(np.float64), len(members)
        for part in parts:
            block = np.flatnonzero(np.isin(members, part))
            found.append(s[np.ix_(block, block)].mean() - 2 * s[block].mean() + s.mean())
            random.append((n - len(block)) / len(block) / (n - 1) * (1 - s.mean()))
    return float(np.mean(found)), float(np.mean(random))


class TestUnits:
    def test_as_many_blocks_as_the_share_is_a_multiple_of_the_smallest(self) -> None:
        owners, sizes = units(np.array([313, 312, 625, 1250]), check_ratios([1, 1, 2, 4]))

        assert owners.tolist() == [0, 1, 2, 2, 3, 3, 3, 3]
        assert sizes.tolist() == [313, 312, 313, 312, 313, 313, 312, 312]

    def test_one_shorter_block_for_the_rest(self) -> None:
        owners, sizes = units(np.array([100, 250]), check_ratios([2, 5]))

        assert (owners.tolist(), sizes.tolist()) == ([0, 1, 1, 1], [100, 100, 100, 50])

    def test_workers_without_a_sample_of_the_class_set_no_unit(self) -> None:
        owners, sizes = units(np.array([0, 2, 1]), check_ratios([1, 20, 10]))

        assert (owners.tolist(), sizes.tolist()) == ([1, 1, 2], [1, 1, 1])

    def test_no_more_blocks_than_samples(self) -> None:
        owners, sizes = units(np.array([1, 7]), check_ratios([1e-12, 1]))

        assert (owners.tolist(), sizes.tolist()) == ([0] + [1] * 7, [1] * 8)


@pytest.mark.parametrize("objective", ["facility_location", "graph_cut"])
class TestQuality:
    @pytest.mark.parametrize("ratios", [(1, 1, 1, 1, 2, 2, 4, 4), (1, 1, 1, 1, 1, 1)])
    def test_units_represent_classes_better_than_chance(self, objective: Objective, ratios: tuple[float, ...]) -> None:
        labels, features = images(each=240)

        found, random = discrepancy(labels, features, SubmodularPartitioner(objective)(labels, ratios, RNG, features))

        assert found < 0.6 * random

    def test_equal_ratios_make_units_the_papers_rule(self, objective: Objective) -> None:
        labels, features = images()

        parts = [
            SubmodularPartitioner(objective, rule)(labels, (1,) * 5, RNG, features) for rule in ("units", "min_value")
        ]

        assert [part.tolist() for part in parts[0]] == [part.tolist() for part in parts[1]]

    def test_the_result_does_not_depend_on_the_number_of_jobs(self, objective: Objective) -> None:
        labels, features = images(classes=7, each=41)

        parts = [
            SubmodularPartitioner(objective, jobs=jobs)(labels, (1, 2, 3), RNG, features) for jobs in (1, 2, 7, None)
        ]

        assert all(a.tolist() == b.tolist() for other in parts[1:] for a, b in zip(parts[0], other, strict=True))


@pytest.mark.parametrize("selection", ["units", "fill", "min_value"])
def test_classes_are_divided_independently(selection: Selection) -> None:
    labels, features = images(classes=2)
    partitioner = SubmodularPartitioner("graph_cut", selection, bandwidth=30.0)
    moved = np.where(labels[:, None] == 1, features[:, ::-1] * 2, features)

    for part, other in zip(
        partitioner(labels, (1, 2), RNG, features), partitioner(labels, (1, 2), RNG, moved), strict=True
    ):
        assert part[labels[part] == 0].tolist() == other[labels[other] == 0].tolist()


def test_images_are_flattened() -> None:
    labels, features = images()

    parts = SubmodularPartitioner()(labels, (1, 2), RNG, features)
    stacked = SubmodularPartitioner()(labels, (1, 2), RNG, features.reshape(-1, 3, 2))

    assert [part.tolist() for part in parts] == [part.tolist() for part in stacked]


class TestMemory:
    @pytest.mark.parametrize("fill", [False, True])
    @pytest.mark.parametrize("lam", [1.0, 0.4])
    @pytest.mark.parametrize("name", ["gaussian", "cosine"])
    def test_graph_cut_without_the_matrix_is_the_same(self, fill: bool, lam: float, name: kernel.KernelName) -> None:
        points = kernel.embed(np.random.default_rng(2).normal(size=(500, 9)), name)
        sizes = np.array([50, 200, *[25] * 10])
        s = kernel.to_similarity(kernel.squared_distances(points), name, 18.0)

        owner, value = graph_cut(s, sizes, fill, lam)
        owner_free, value_free = matrix_free.graph_cut(points, name, 18.0, sizes, fill, lam)

        np.testing.assert_allclose(value_free, value, rtol=1e-6)
        assert (owner == owner_free).mean() > 0.99

    def test_a_class_beyond_the_limit_goes_without_the_matrix(self) -> None:
        labels, features = images()

        parts = SubmodularPartitioner("graph_cut")(labels, (1, 1, 2), RNG, features)
        free = SubmodularPartitioner("graph_cut", max_kernel_bytes=4 * 89**2)(labels, (1, 1, 2), RNG, features)

        assert [part.tolist() for part in parts] == [part.tolist() for part in free]

    def test_bandwidth_is_estimated_from_evenly_spaced_samples(self) -> None:
        points = kernel.embed(np.random.default_rng(2).normal(size=(9000, 4)), "gaussian")
        thirds = kernel.Points(points.vectors[::3], points.squares[::3])

        expected = kernel.median_distance(kernel.squared_distances(thirds))

        assert matrix_free.estimated_bandwidth(points) == expected


class TestInPieces:
    """Facility location of a class whose similarities do not fit: piece by piece."""

    @pytest.mark.parametrize("selection", get_args(Selection))
    @pytest.mark.parametrize("samples_at_a_time", [1, 7, 30, 45, 89])
    def test_sizes_are_exact(self, selection: Selection, samples_at_a_time: int) -> None:
        labels, features = images()
        whole = SubmodularPartitioner(selection=selection)
        pieces = replace(whole, max_kernel_bytes=4 * samples_at_a_time**2)

        parts = pieces(labels, (1, 1, 2, 3.5), RNG, features)

        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
        for label in np.unique(labels):
            expected = [np.sum(labels[part] == label) for part in whole(labels, (1, 1, 2, 3.5), RNG, features)]
            assert [np.sum(labels[part] == label) for part in parts] == expected

    def test_a_block_is_worth_at_least_the_sum_of_its_pieces(self) -> None:
        _, features = images(1, 120)
        similarities = kernel.similarity(features, bandwidth=9.0)
        parts = SubmodularPartitioner(bandwidth=9.0, max_kernel_bytes=4 * 40**2)([0] * 120, (1, 2), RNG, features)

        for part in parts:
            in_pieces = [(part[part % 3 == piece], np.arange(piece, 120, 3)) for piece in range(3)]
            bound = sum(similarities[np.ix_(block, members)].max(axis=0).sum() for block, members in in_pieces)
            assert similarities[part].max(axis=0).sum() >= bound - 1e-4

    def test_parts_represent_their_class_better_than_random_ones(self) -> None:
        labels, features = images(2, 400)

        found, random = discrepancy(
            labels, features, SubmodularPartitioner(max_kernel_bytes=4 * 100**2)(labels, (1, 1, 2, 4), RNG, features)
        )

        assert found < 0.7 * random

    def test_graph_cut_and_small_classes_have_no_pieces(self) -> None:
        labels, features = images()
        enough = SubmodularPartitioner(max_kernel_bytes=4 * 90**2)(labels, (1, 2), RNG, features)
        whole = SubmodularPartitioner()(labels, (1, 2), RNG, features)

        assert [part.tolist() for part in enough] == [part.tolist() for part in whole]


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"objective": "cut"}, r"partitioner\.objective must be one of facility_location, graph_cut; got 'cut'"),
            ({"selection": "unit"}, r"partitioner\.selection must be one of units, fill, min_value; got 'unit'"),
            ({"kernel": "linear"}, r"partitioner\.kernel must be one of gaussian, cosine; got 'linear'"),
            ({"bandwidth": 0.0}, r"partitioner\.bandwidth must be positive and finite, or null; got 0\.0"),
            ({"bandwidth": float("nan")}, r"partitioner\.bandwidth must be positive and finite, or null; got nan"),
            ({"lam": 1.1}, r"partitioner\.lam must lie in \[0, 1\]; got 1\.1"),
            ({"max_kernel_bytes": 0}, r"partitioner\.max_kernel_bytes must be at least 1; got 0"),
            ({"jobs": 0}, r"partitioner\.jobs must be at least 1; got 0"),
        ],
    )
    def test_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SubmodularPartitioner(**options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (None, r"features are needed to compare samples.*got None"),
            (np.zeros((3, 2)), r"features must have one row per label \(4\); got shape \(3, 2\)"),
            (np.zeros((4, 0)), r"features must have at least one column; got shape \(4, 0\)"),
            (np.array([["a"]] * 4), r"features must be real numbers; got dtype <U1"),
            (np.array([[1.0], [2.0], [np.nan], [np.inf]]), "features must be finite; sample 2 has NaN or infinity"),
        ],
    )
    def test_features(self, features: np.ndarray | None, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SubmodularPartitioner()([0, 0, 1, 1], (1, 1), RNG, features)

    def test_a_class_with_fewer_samples_than_workers_is_missing_from_some(self) -> None:
        labels = np.repeat([0, 1], [12, 2])

        parts = SubmodularPartitioner()(labels, (1, 1, 1, 4), RNG, np.arange(28.0).reshape(14, 2))

        assert [np.bincount(labels[part], minlength=2).tolist() for part in parts] == [[2, 0], [2, 0], [1, 1], [7, 1]]
