from collections.abc import Callable
from pathlib import Path

import pytest

from echelon.reports.run_folder import RunFolder, RunFolderError
from echelon.reports.run_groups import differences, find, find_runs, group


def run(path: Path, config: str) -> RunFolder:
    RunFolder.create(path, config)
    return RunFolder.open(path)


def labels(tmp_path: Path, *configs: str) -> list[str]:
    return [found.label for found in group([run(tmp_path / str(k), config) for k, config in enumerate(configs)])]


def test_runs_that_differ_by_seed_only_are_one_group(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(k), f"seed: {k}\nrun_dir: here/{k}\nstrategy: {{name: matcha}}\n") for k in range(3)]
    (only,) = group(runs)
    assert only.runs == tuple(runs)
    assert only.label == "all runs"
    assert differences([only]) == []


def test_labels_name_choices_barely_and_other_keys_by_name(tmp_path: Path) -> None:
    assert labels(
        tmp_path,
        "rounds: 5\nstrategy: {name: d_psgd}\n",
        "rounds: 5\nstrategy: {name: al_dsgd, c1: 0.3}\n",
        "rounds: 5\nstrategy: {name: al_dsgd, c1: 0.1}\n",
        "rounds: 9\nstrategy: {name: al_dsgd, c1: 0.1}\n",
    ) == ["d_psgd, rounds=5", "al_dsgd, rounds=5, c1=0.3", "al_dsgd, rounds=5, c1=0.1", "al_dsgd, rounds=9, c1=0.1"]


def test_keys_that_belong_to_another_choice_are_not_in_the_label(tmp_path: Path) -> None:
    configs = ("strategy: {name: d_psgd, mixing: uniform}\n", "strategy: {name: matcha, mixing: laplacian}\n")
    assert labels(tmp_path, *configs) == ["d_psgd", "matcha"]


def test_differences_list_every_key_that_differs(tmp_path: Path) -> None:
    found = group(
        [
            run(tmp_path / "a", "seed: 1\nrounds: 5\nstrategy: {name: d_psgd}\n"),
            run(tmp_path / "b", "seed: 2\nrounds: 5\nstrategy: {name: al_dsgd, c1: 0.3}\n"),
        ]
    )
    assert differences(found) == [("strategy.name", ["d_psgd", "al_dsgd"]), ("strategy.c1", ["–", "0.3"])]


def test_sweep_folders_are_searched_and_sorted_by_number(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    for number in (10, 2, 0):
        make_run(tmp_path / "sweep" / str(number), rounds=1)
    found = find_runs([tmp_path / "sweep", tmp_path / "sweep" / "2"])
    assert [folder.path.name for folder in found] == ["0", "2", "10"]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunFolderError, match="not a run folder"):
        find_runs([tmp_path])


def test_the_baseline_goes_by_label_or_path(tmp_path: Path) -> None:
    found = group(
        [run(tmp_path / "a", "strategy: {name: d_psgd}\n"), run(tmp_path / "b", "strategy: {name: matcha}\n")]
    )
    assert find(found, "matcha") is found[1]
    assert find(found, str(tmp_path / "b")) is found[1]
    with pytest.raises(RunFolderError, match="baseline must be one of the runs or of 'd_psgd', 'matcha'; got 'fedavg'"):
        find(found, "fedavg")
