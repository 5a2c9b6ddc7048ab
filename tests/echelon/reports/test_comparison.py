import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echelon.reports import tables
from echelon.reports.comparison import Column, Comparison, Level, Speed, Statistic, common_loss, compare
from echelon.reports.figures import comparison as figures
from echelon.reports.run_folder import RunFolder, RunFolderError
from echelon.reports.run_groups import Group, group

MIB = 1_000_000


def run(path: Path, strategy: str, seed: int, losses: Sequence[float], seconds: float) -> RunFolder:
    """A run of two workers with rounds of the given length, evaluated in the last one."""
    folder = RunFolder.create(path / f"{strategy}{seed}", f"seed: {seed}\nstrategy: {{name: {strategy}}}\n")
    for t, loss in enumerate(losses, start=1):
        row: dict[str, Any] = {"round": t, "virtual_seconds": seconds * t, "minibatches": [4, 4], "train_loss": loss}
        row |= {"idle_share": [0.0, 0.5], "peer_bytes": [MIB, MIB], "compute_seconds": [seconds, seconds / 2]}
        if t == len(losses):
            row |= {"consensus_accuracy": 0.9, "worker_accuracy": [0.8, 0.6]}
        folder.append_metrics(row)
    return RunFolder.open(folder.path)


@pytest.fixture
def groups(tmp_path: Path) -> list[Group]:
    """Two groups of two seeds: the second reaches a loss of 0.5 in half or a third of the time of the first."""
    return group(
        [
            run(tmp_path, "d_psgd", 0, [2.0, 1.0, 0.5, 0.4], 10),
            run(tmp_path, "d_psgd", 1, [2.0, 1.0, 0.5, 0.3], 20),
            run(tmp_path, "matcha", 1, [2.0, 0.5, 0.4123], 10),
            run(tmp_path, "matcha", 0, [2.0, 1.0, 0.5], 5),
        ]
    )


def cells(comparison: Comparison, heading: str) -> list[Statistic]:
    (column,) = [j for j, found in enumerate(comparison.columns) if found.heading == heading]
    return [row[column] for row in comparison.cells]


def test_quantities_are_means_and_deviations_over_seeds(groups: list[Group]) -> None:
    result = compare(groups, groups[0], [Level("loss", 0.5)])
    virtual = cells(result, "Virtual time (s)")[0]
    assert list(virtual.values) == [40, 80]
    assert virtual.mean == 60
    assert virtual.deviation == pytest.approx(np.std([40, 80], ddof=1))
    assert cells(result, "Consensus accuracy (%)")[1].mean == 0.9
    assert cells(result, "Mean worker accuracy (%)")[1].mean == pytest.approx(0.7)
    assert cells(result, "Worst worker accuracy (%)")[1].mean == 0.6
    assert cells(result, "Idle (%)")[0].mean == 0.25
    assert cells(result, "Peer-to-peer traffic (MB)")[0].mean == 4 * 2 * MIB


def test_time_to_a_level_is_that_of_the_first_round_there(groups: list[Group]) -> None:
    result = compare(groups, groups[0], [Level("loss", 0.5), Level("accuracy", 0.9)])
    assert [cell.values for cell in cells(result, "Time to training loss ≤ 0.5 (s)")] == [(30, 60), (20, 15)]
    assert [cell.values for cell in cells(result, "Time to accuracy ≥ 90 % (s)")] == [(40, 80), (30, 15)]


def test_speed_ups_pair_equal_seeds(groups: list[Group]) -> None:
    result = compare(groups, groups[0], [Level("loss", 0.5)])
    baseline, other = cells(result, "Speed to training loss ≤ 0.5")
    assert list(baseline.values) == [1, 1]
    assert list(other.values) == [60 / 20, 30 / 15]


def test_speed_ups_of_different_seeds_are_ratios_of_means(tmp_path: Path) -> None:
    found = group([run(tmp_path, "d_psgd", 0, [1.0], 30), run(tmp_path, "matcha", 7, [1.0], 10)])
    _, other = cells(compare(found, found[0], [Level("loss", 1.0)]), "Speed to training loss ≤ 1")
    assert list(other.values) == [3]


def test_a_level_that_some_runs_miss_has_no_mean(groups: list[Group]) -> None:
    result = compare(groups, groups[0], [Level("loss", 0.35)])
    first, second = cells(result, "Time to training loss ≤ 0.35 (s)")
    assert list(first.values) == [None, 80]
    assert first.mean is None
    column = next(found for found in result.columns if found.heading == "Time to training loss ≤ 0.35 (s)")
    assert column.write(first) == "1 of 2 runs"
    assert column.write(second) == "not reached"
    assert [cell.mean for cell in cells(result, "Speed to training loss ≤ 0.35")] == [None, None]


def test_the_default_level_is_the_lowest_loss_that_all_reach(groups: list[Group]) -> None:
    assert common_loss(groups).value == pytest.approx(0.5)
    assert common_loss(groups[:1]).value == pytest.approx(0.4)
    result = compare(groups, groups[0])
    assert None not in [cell.mean for cell in cells(result, "Time to training loss ≤ 0.5 (s)")]


@pytest.mark.parametrize("loss", [0.41234, 0.5, 1e-6, 12345.6, 0.0])
def test_rounding_keeps_the_default_level_reachable(tmp_path: Path, loss: float) -> None:
    found = group([run(tmp_path, "d_psgd", 0, [loss], 1)])
    level = common_loss(found)
    assert loss <= level.value <= 1.01 * loss
    assert level.time(found[0].runs[0]) == 1


def test_runs_without_a_loss_need_a_level(tmp_path: Path) -> None:
    found = group([run(tmp_path, "d_psgd", 0, [float("nan")], 1)])
    with pytest.raises(RunFolderError, match="no training loss recorded"):
        compare(found, found[0])


def test_numbers_are_written_in_the_headings_unit() -> None:
    column = Column("Accuracy (%)", 100, 1)
    assert column.write(Statistic((0.5, 0.52))) == "51.0 ± 1.4"
    assert column.write(Statistic((0.5,))) == "50.0"
    assert column.write(Statistic((None,))) == "–"


def test_a_speed_is_said_in_words() -> None:
    column = Speed("Speed", 1, 2)
    assert column.write(Statistic((1.0, 1.0))) == "1.00 ×"
    assert column.write(Statistic((2.0, 3.0))) == "2.50 ± 0.71 × faster"
    assert column.write(Statistic((0.25, 0.5))) == "3.00 ± 1.41 × slower"
    assert column.write(Statistic((None,))) == "–"


def test_numbers_without_decimals_get_four_digits() -> None:
    column = Column("Time (s)", 1)
    assert column.write(Statistic((2.50123,))) == "2.501"
    assert column.write(Statistic((12345.678, 12355.678))) == "12351 ± 7"
    assert column.write(Statistic((0.0,))) == "0"


def test_csv_holds_the_table(tmp_path: Path, groups: list[Group]) -> None:
    tables.write_comparison(compare(groups, groups[0], [Level("loss", 0.35)]), tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["d_psgd", "matcha"]
    assert float(rows[0]["Worst worker accuracy (%) mean"]) == pytest.approx(60)
    assert rows[0]["Time to training loss ≤ 0.35 (s) mean"] == ""
    assert rows[0]["Time to training loss ≤ 0.35 (s) runs"] == "1"


def test_csv_holds_the_metrics(tmp_path: Path, groups: list[Group]) -> None:
    tables.write_metrics(list(groups[0].runs), tmp_path / "metrics.csv")
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[0]["run"] == str(groups[0].runs[0].path)
    assert [row["train_loss"] for row in rows[:4]] == ["2.0", "1.0", "0.5", "0.4"]
    assert rows[3]["worker_accuracy[1]"] == "0.6"
    assert rows[0]["worker_accuracy[1]"] == ""


def test_curves_average_over_seeds_where_all_have_values(groups: list[Group]) -> None:
    found = figures.over_seeds(groups[0], "round", "train_loss")
    assert found is not None
    places, low, mean, high = found
    assert places.tolist() == [1, 2, 3, 4]
    assert mean == pytest.approx([2.0, 1.0, 0.5, 0.35])
    assert (low[-1], high[-1]) == (0.3, 0.4)
    # Seed 1 begins at 20 s, seed 0 ends at 40 s; at 30 s seed 1 is half-way between its first two rounds.
    found = figures.over_seeds(groups[0], "virtual_seconds", "train_loss")
    assert found is not None
    assert found[0].tolist() == [20, 30, 40]
    assert found[2] == pytest.approx([1.5, 1.0, 0.7])
    assert figures.over_seeds(groups[0], "round", "consensus_loss") is None


def test_figures_show_every_group(groups: list[Group]) -> None:
    drawn = figures.draw(compare(groups, groups[0], [Level("loss", 0.35), Level("loss", 0.5)]))
    assert list(drawn) == ["curves", "times", "activity"]
    missed, reached = drawn["times"].axes
    assert [text.get_text().strip() for text in missed.texts] == ["1 of 2 runs", "not reached"]
    assert [text.get_text().strip() for text in reached.texts] == ["1.00 ×", "2.50 ± 0.71 × faster"]
    assert [bar.get_width() for bar in reached.patches] == [45, 17.5]  # type: ignore[attr-defined]
    assert [text.get_text() for text in drawn["curves"].legends[0].get_texts()] == ["d_psgd", "matcha"]
    widths = [bar.get_width() for bar in drawn["activity"].axes[0].patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([75, 25, 75, 25])
