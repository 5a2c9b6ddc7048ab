import io
import json

import numpy as np
import pytest
from rich.console import Console

from partitioners import DirichletPartitioner, StratifiedPartitioner, SubmodularPartitioner, quality

RATIOS = (1, 1, 2)


def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat([3, 8], [120, 80]))
    return labels, (rng.normal(size=(200, 5)) + 2 * (labels[:, None] == 8)).astype(np.float32)


def test_sizes_and_classes_by_hand() -> None:
    report = quality.report([[0, 1, 2], [3], []], [5, 5, 9, 9], (2, 1, 1))

    assert report.sizes == [3, 1, 0]
    assert report.size_errors == [1.0, 0.0, -1.0]
    assert report.classes == [5, 9]
    assert report.class_counts == [[2, 1], [0, 1], [0, 0]]
    assert report.class_variations == pytest.approx([1 / 6, 1 / 2, 1.0])
    assert report.similarity is None
    assert report.to_json()["size_error_worst"] == 1.0


def test_submodular_parts_are_told_from_random_ones() -> None:
    labels, features = images()
    rng = np.random.default_rng(0)
    random = quality.report(StratifiedPartitioner()(labels, RATIOS, rng), labels, RATIOS, features).to_json()
    chosen = quality.report(SubmodularPartitioner()(labels, RATIOS, rng, features), labels, RATIOS, features).to_json()

    assert chosen["random_mmd2_mean"] == pytest.approx(random["random_mmd2_mean"], rel=1e-6)
    assert 0.7 < random["mmd2_mean"] / random["random_mmd2_mean"] < 1.4  # type: ignore[operator]
    assert chosen["mmd2_mean"] < 0.6 * chosen["random_mmd2_mean"]  # type: ignore[operator]
    assert chosen["coverage_mean"] > chosen["random_coverage_mean"]  # type: ignore[operator]


def test_a_whole_class_is_matched_exactly_and_a_missing_one_left_out() -> None:
    labels, features = images()
    parts = [np.flatnonzero(labels == 3), np.flatnonzero(labels == 8)]

    report = quality.report(parts, labels, (1, 1), features)
    similarity = report.similarity

    assert similarity is not None
    assert similarity.mmd2[0] == pytest.approx([0.0, np.nan], abs=1e-9, nan_ok=True)
    assert similarity.random_mmd2[1] == pytest.approx([np.nan, 0.0], abs=1e-9, nan_ok=True)
    assert similarity.coverage == pytest.approx([0.6, 0.4])
    assert report.to_json()["mmd2"] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_large_classes_are_estimated_at_bounded_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, features = images()
    parts = DirichletPartitioner(0.5)(labels, RATIOS, np.random.default_rng(0))
    exact = quality.report(parts, labels, RATIOS, features).similarity
    monkeypatch.setattr(quality, "_EXACT", 10)
    monkeypatch.setattr(quality, "_EVALUATED", 60)

    estimate = quality.report(parts, labels, RATIOS, features).similarity

    assert exact is not None
    assert estimate is not None
    np.testing.assert_allclose(estimate.mmd2, exact.mmd2, rtol=0.15)
    np.testing.assert_allclose(estimate.random_mmd2, exact.random_mmd2, rtol=0.1)
    np.testing.assert_allclose(estimate.coverage, exact.coverage, rtol=0.1)
    assert estimate.neighbour_accuracy == exact.neighbour_accuracy


def test_equal_seeds_give_equal_reports() -> None:
    labels, features = images()
    parts = StratifiedPartitioner()(labels, RATIOS, np.random.default_rng(0))

    first, again = (quality.report(parts, labels, RATIOS, features, seed=4).to_json() for _ in range(2))

    assert first == again


def test_json_holds_no_nan_though_a_worker_has_nothing() -> None:
    labels, features = images()

    text = json.dumps(quality.report([np.arange(200), []], labels, RATIOS[1:], features).to_json(), allow_nan=False)

    assert json.loads(text)["mmd2"][1] is None
    assert json.loads(text)["coverage"][1] == 0


class TestDisplay:
    def test_table(self) -> None:
        labels, features = images()
        parts = StratifiedPartitioner()(labels, RATIOS, np.random.default_rng(0))

        for report, columns in (
            (quality.report(parts, labels, RATIOS), 4),
            (quality.report(parts, labels, RATIOS, features), 7),
        ):
            console = Console(file=io.StringIO(), width=80)
            console.print(report.table())
            text = console.file.getvalue()  # type: ignore[attr-defined]
            rows = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
            assert {len(row) for row in rows} == {columns}
            assert [row[1].strip() for row in rows][:4] == ["50", "50", "100", "66.7"]


def test_the_projection_of_every_sample_is_described() -> None:
    labels, features = images()
    parts = StratifiedPartitioner()(labels, RATIOS, np.random.default_rng(0))

    projection = quality.report(parts, labels, RATIOS, features).to_json()["projection"]

    assert isinstance(projection, dict)
    owner = np.repeat(np.arange(3), [len(part) for part in parts])[np.argsort(np.concatenate(parts))]
    assert projection["rank"] == owner.tolist()
    assert projection["class"] == np.searchsorted(np.unique(labels), labels).tolist()
    assert np.abs([projection["x"], projection["y"]]).max() == 1


class TestBadInput:
    def test_parts_that_do_not_cover(self) -> None:
        with pytest.raises(ValueError, match=r"parts must hold each of the 3 samples exactly once; got 2 indices"):
            quality.report([[0], [1]], [0, 0, 0], (1, 1))

    def test_parts_that_overlap(self) -> None:
        with pytest.raises(ValueError, match=r"parts must hold each of the 2 samples exactly once; got 3 indices"):
            quality.report([[0, 1], [1]], [0, 0], (1, 1))

    def test_number_of_parts(self) -> None:
        with pytest.raises(ValueError, match=r"parts must be one for each of the 2 ratios; got 1"):
            quality.report([[0, 1]], [0, 0], (1, 1))

    def test_features(self) -> None:
        with pytest.raises(ValueError, match=r"features must have one row per label \(2\); got shape \(3, 1\)"):
            quality.report([[0], [1]], [0, 0], (1, 1), np.zeros((3, 1)))
