"""The contract of all partitioners; one row of CASES puts a new one under test."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from partitioners import REGISTRY, Partitioner

RATIOS = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0)


@dataclass(frozen=True)
class Case:
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    total_within_one: bool = True
    class_within_one: bool = False

    def make(self) -> Partitioner:
        return REGISTRY[self.name](**self.options)


CASES = (
    Case("iid"),
    Case("stratified", class_within_one=True),
    Case("dirichlet", {"alpha": 0.3}),
    Case("shards", {"classes_per_worker": 2}),
    Case("submodular", class_within_one=True),
    Case("by_group", {"groups": np.arange(131) // 4}, total_within_one=False),
)


def data(seed: int = 3) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """131 samples of classes -2, 0, 5 (61, 67 and 3 samples), shuffled, with 4 features each."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.array([-2, 0, 5]), [61, 67, 3]))
    return labels, rng.normal(size=(131, 4)).astype(np.float32)


def split(case: Case, ratios: tuple[float, ...] = RATIOS, seed: int = 0) -> list[npt.NDArray[np.int64]]:
    labels, features = data()
    return case.make()(labels, ratios, np.random.default_rng(seed), features)


def test_every_registered_partitioner_is_under_contract() -> None:
    # A saved partition fits one data set only: see test_file.
    assert {case.name for case in CASES} == set(REGISTRY) - {"file"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestContract:
    @pytest.mark.parametrize("ratios", [RATIOS, (1.0,), (1.0, 1.0, 1.0), (0.3, 1.7)])
    def test_parts_are_sorted_disjoint_and_cover(self, case: Case, ratios: tuple[float, ...]) -> None:
        parts = split(case, ratios)

        assert len(parts) == len(ratios)
        assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
        assert np.sort(np.concatenate(parts)).tolist() == list(range(131))

    @pytest.mark.parametrize("ratios", [RATIOS, (1.0,) * 5, (0.3, 1.7)])
    def test_sizes_follow_the_ratios(self, case: Case, ratios: tuple[float, ...]) -> None:
        sizes = np.array([len(part) for part in split(case, ratios)])
        shares = 131 * np.array(ratios) / np.sum(ratios)

        assert np.abs(sizes - shares).max() < (1 if case.total_within_one else 4)

    def test_only_the_proportions_of_the_ratios_count(self, case: Case) -> None:
        for part, scaled in zip(split(case), split(case, tuple(64 * ratio for ratio in RATIOS)), strict=True):
            assert part.tolist() == scaled.tolist()

    def test_class_counts_follow_the_ratios(self, case: Case) -> None:
        if not case.class_within_one:
            pytest.skip("promises no class proportions")
        labels, _ = data()
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            held = np.array([(labels[part] == label).sum() for part in split(case)])
            assert np.abs(held - count * np.array(RATIOS) / sum(RATIOS)).max() < 1

    def test_equal_arguments_give_equal_parts_and_leave_the_data_alone(self, case: Case) -> None:
        labels, features = data()
        labels.setflags(write=False)
        features.setflags(write=False)
        partitioner = case.make()

        first = partitioner(labels, RATIOS, np.random.default_rng(7), features)
        again = partitioner(labels.tolist(), np.array(RATIOS), np.random.default_rng(7), features)  # type: ignore[arg-type]

        assert [part.tolist() for part in first] == [part.tolist() for part in again]

    @pytest.mark.parametrize(
        ("ratios", "message"),
        [
            ((1.0, 0.0), r"partitioner\.ratios\[1\] must be positive and finite; got 0\.0"),
            ((-2.0, 1.0), r"partitioner\.ratios\[0\] must be positive and finite; got -2\.0"),
            ((1.0, float("nan")), r"partitioner\.ratios\[1\] must be positive and finite; got nan"),
            ((), r"partitioner\.ratios must be one number per worker; got shape \(0,\)"),
        ],
    )
    def test_bad_ratios(self, case: Case, ratios: tuple[float, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            split(case, ratios)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.empty(0, dtype=np.int64), r"labels must be one class per sample, shape \(n,\) with n > 0"),
            (np.zeros((4, 2), dtype=np.int64), r"labels must be one class per sample.*\(4, 2\)"),
            (np.zeros(4), "labels must be integers; got dtype float64"),
        ],
    )
    def test_bad_labels(self, case: Case, labels: npt.NDArray[np.int64], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            case.make()(labels, (1.0, 1.0), np.random.default_rng(0), np.zeros((4, 2)))
