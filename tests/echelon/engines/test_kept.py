"""Checkpoints of a run without a server: a file for each worker; a resumed run goes on with the same bits."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from echelon.engines import kept
from echelon.engines.peers import Parts, PeerRun
from echelon.peer.group import Group
from echelon.server import checkpoint, shards
from tests.echelon.engines.runs import OWNERS, WITHOUT_SERVER, WORKERS, parts
from tests.pool import Pool

ROUNDS, SAVED = 5, 3
OTHERS = (2, 0, 1, 0)
Models = dict[int, NDArray[np.float32]]
CASES = [*WITHOUT_SERVER, "all_reduce with memory", "d_psgd with memory, two steps"]


def made(name: str) -> Parts:
    strategy, _, work = name.partition(" with ")
    return parts(strategy, work or "non_blocking")


def models(run: PeerRun) -> Models:
    return {rank: row.copy() for rank, (row, _) in run.models().items()}


def whole(names: list[str], folder: Path, owners: list[int]) -> dict[str, Any]:
    """Do all rounds, and save one in the middle."""
    found = {}
    for name in names:
        run = PeerRun(made(name), Group(owners))
        for _ in range(SAVED):
            run.round()
        saved = kept.save(run, folder / name), deepcopy(kept.Shared.of(run)), models(run)
        records = [run.round() for _ in range(ROUNDS - SAVED)]
        found[name] = saved, models(run), records
    return found


def resumed(names: list[str], folder: Path, owners: tuple[int, ...]) -> dict[str, Any]:
    found = {}
    for name in names:
        run = PeerRun(made(name), Group(owners))
        kept.load(run, checkpoint.load(folder / name, run.group.local))
        records = [run.round() for _ in range(ROUNDS - SAVED)]
        found[name] = models(run), records
    return found


def united(found: list[Models]) -> NDArray[np.float32]:
    by_rank = {rank: row for of_process in found for rank, row in of_process.items()}
    return np.stack([by_rank[rank] for rank in range(WORKERS)])


@pytest.fixture(scope="module")
def saved(three: Pool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("kept")
    for name in CASES:
        (folder / name).mkdir()
    found = three.call(whole, CASES, folder, OWNERS)
    for name in CASES:
        names = {rank: file for of_process in found for rank, file in of_process[name][0][0].items()}
        shared = found[0][name][0][1]
        shards.commit(shared.tally, names, folder / name, keep=3, **shared.numbers())
    return folder, found


@pytest.fixture(scope="module")
def again(three: Pool, saved: tuple[Path, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return three.call(resumed, CASES, saved[0], OWNERS)


@pytest.fixture(scope="module")
def elsewhere(three: Pool, saved: tuple[Path, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return three.call(resumed, CASES, saved[0], OTHERS)


def plain(records: list[dict[str, Any]]) -> list[str]:
    return [repr({name: value for name, value in record.items() if name != "wall_seconds"}) for record in records]


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_has_the_same_bits(
    name: str, saved: tuple[Path, list[dict[str, Any]]], again: list[dict[str, Any]]
) -> None:
    found = saved[1]
    expected = united([of_process[name][1] for of_process in found])
    np.testing.assert_array_equal(united([of_process[name][0] for of_process in again]), expected)
    assert plain(again[0][name][1]) == plain(found[0][name][2])


@pytest.mark.parametrize("name", CASES)
def test_workers_may_be_in_other_processes(
    name: str, saved: tuple[Path, list[dict[str, Any]]], elsewhere: list[dict[str, Any]]
) -> None:
    """Rows are summed in rank order; an all-reduce adds them in the order of the processes."""
    expected = united([of_process[name][1] for of_process in saved[1]])
    found = united([of_process[name][0] for of_process in elsewhere])
    if name.startswith("all_reduce"):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", CASES)
def test_one_process_has_the_bits_of_three(
    name: str, saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path, alone: None
) -> None:
    if name.startswith("all_reduce"):
        pytest.skip("an all-reduce adds in the order of the processes")
    (tmp_path / name).mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the others: sums over a batch depend on it
    try:
        found = whole([name], tmp_path, [0] * WORKERS)[name][1]
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(united([found]), united([of_process[name][1] for of_process in saved[1]]))


def test_a_server_reads_it_too(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, found = saved
    state = checkpoint.load(folder / "d_psgd")
    assert state.round == SAVED
    np.testing.assert_array_equal(state.rows, united([of_process["d_psgd"][0][2] for of_process in found]))
    assert state.momentum is not None
    assert state.momentum.shape == (WORKERS, state.rows.shape[1] - 16)  # BatchNorm's means and variances
    assert "shards" not in state.extras


# --- a restarted process


def come_back(folder: Path | None) -> tuple[Models, Models, int, Models]:
    """Let process 2 (worker 3) be lost after some rounds and come back, with a checkpoint or without."""
    first, again = (PeerRun(parts("d_psgd", "non_blocking"), Group(OWNERS)) for _ in range(2))
    for _ in range(SAVED + 1):
        first.round()
    before, is_fresh = models(first), first.group.process == 2
    run = again if is_fresh else first
    run.group = run.rounds.group = first.group
    if is_fresh and folder is not None:
        kept.load(run, checkpoint.load(folder, run.group.local))
    kept.join(run, [2], is_fresh and folder is None)
    after, reached = models(run), run.rounds.tally.round
    run.round()
    return before, after, reached, models(run)


def test_without_a_checkpoint_a_restarted_worker_gets_its_neighbours_mean(three: Pool) -> None:
    found = three.call(come_back, None)
    before, after = (united([of_process[place] for of_process in found]) for place in (0, 1))
    np.testing.assert_array_equal(after[:3], before[:3])
    np.testing.assert_allclose(after[3], (before[0] + before[2]) / 2, rtol=1e-5, atol=1e-6)
    assert [of_process[2] for of_process in found] == [SAVED + 1] * 3
    assert np.isfinite(united([of_process[3] for of_process in found])).all()


def test_with_a_checkpoint_it_gets_the_model_of_that(three: Pool, saved: tuple[Path, list[dict[str, Any]]]) -> None:
    found = three.call(come_back, saved[0] / "d_psgd")
    before, after = (united([of_process[place] for of_process in found]) for place in (0, 1))
    np.testing.assert_array_equal(after[:3], before[:3])
    np.testing.assert_array_equal(after[3], saved[1][2]["d_psgd"][0][2][3])


# --- damage


def _copy(saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0] / "d_psgd", tmp_path / "checkpoint"))


def test_a_damaged_file_of_a_worker(saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder = _copy(saved, tmp_path)
    next((folder / "worker-1").iterdir()).write_bytes(b"damaged")
    with pytest.raises(checkpoint.CheckpointError, match=r"^resume: every checkpoint in .* is damaged; the newest"):
        checkpoint.load(folder)
    assert checkpoint.load(folder, [0, 2]).rows.shape[0] == 2


def test_a_worker_that_was_never_saved(saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder = _copy(saved, tmp_path)
    state, names = checkpoint.load(folder), shards.names(folder)
    del names[1]
    shards.commit(shards.tally_of(state), names, folder, keep=1)
    found = checkpoint.load(folder)
    np.testing.assert_allclose(found.rows[1], state.rows[[0, 2, 3]].mean(axis=0), rtol=1e-5, atol=1e-6)
    assert found.momentum is not None
    assert not found.momentum[1].any()
    assert not any((folder / "worker-1").iterdir()), "what no checkpoint names is removed"


def test_what_a_machine_lacks(saved: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder = _copy(saved, tmp_path)
    (state,) = shards.numbers(folder)
    assert state.round == SAVED
    assert shards.missing(state, folder, range(WORKERS)) is None
    (file,) = (folder / "worker-1").iterdir()
    shards.forget_after(SAVED, folder, [1])
    assert file.exists()
    shards.forget_after(SAVED - 1, folder, [1])
    assert not file.exists()
    assert shards.missing(state, folder, [0, 2]) is None
    assert shards.missing(state, folder, [0, 1]) == str(file)
    next((folder / "worker-0").iterdir()).write_bytes(b"damaged")
    assert shards.missing(state, folder, [0, 2]) == str(next((folder / "worker-0").iterdir()))
