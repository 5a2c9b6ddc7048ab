"""Every strategy gives the same models without a server as with one: scripted workers, several rows in each process."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from echelon.peer.group import Group
from echelon.peer.rounds import Instructions, Report, Rounds
from strategies import ALDSGD, DPSGD, SGD, AllReduce, FedBuff, FlowerStrategy, NormLimit, OverSelection, Partition
from tests.pool import Pool
from tests.strategies import scripted
from tests.strategies.table import STRATEGIES, WORK

CENTRES = (4.0, -8.0, 16.0, 1.0, 0.0, 3.0, 2.5)
OWNERS = (0, 1, 2, 2, 0, 1, 0)
ROUNDS = 12


def distance(arrays: ArrayRecord) -> float:
    """A held-out loss of the scripted models."""
    return float(np.abs(arrays["w"].numpy() - 2.0).sum())


def seconds(rank: int, instructions: Any) -> float:
    return float(1 + (7 * rank + 3 * instructions.server_round) % 5)


def share(rank: int, instructions: Any) -> float:
    return 1.0 if rank == 0 else 0.25 + 0.25 * ((rank + instructions.server_round) % 4)


def loss(rank: int, instructions: Any) -> float:
    return float((5 * rank + 11 * instructions.server_round) % 13)


def away(rank: int, instructions: Any) -> float:
    return float((rank + instructions.server_round) % 6 == 0)


def sgd(name: str) -> SGD:
    """Momentum where the host keeps it."""
    return SGD(0.1, momentum=0.5 if "quasi-global" in name else 0.0)


@dataclass(frozen=True)
class _Asked:
    """What a script sees of the instructions."""

    server_round: int


MADE = STRATEGIES | {
    "al_dsgd held out": partial(ALDSGD, "ring", signal="held_out", held_out_loss=distance),
    "al_dsgd gated": partial(ALDSGD, "complete", signal="held_out", gate=True, held_out_loss=distance),
}
WITHOUT_SERVER = [name for name, make in MADE.items() if not make().needs_server]
ROWS = [(name, "expected") for name in WITHOUT_SERVER]
OWN_STEPS = [name for name, work in WORK.items() if name != "expected" and work.estimator != "memory"]
ROWS += [(name, work) for name in ("d_psgd", "all_reduce") for work in OWN_STEPS]


def scripted_rounds(rows: list[tuple[str, str]], owners: tuple[int, ...]) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return the models of this process's workers after all rounds; NaN for the others."""
    return {row: _run(*row, Group(owners)) for row in rows}


def without_a_process(names: list[str]) -> dict[str, NDArray[np.float64]]:
    """Return the models as above; the last process takes no part."""
    group = Group(OWNERS)
    group.members = (0, 1)
    return {name: _run(name, "expected", group) for name in names} if group.process in group.members else {}


def _run(name: str, work: str, group: Group) -> NDArray[np.float64]:
    strategy = MADE[name](work=WORK[work], sgd=sgd(name))
    sizes = np.full(group.num_workers, 100)
    rounds = Rounds(strategy, group, sizes, lambda rank, row: ArrayRecord({"w": Array(row.numpy())}))
    models = {rank: torch.zeros(1) for rank in group.local}
    for _ in range(ROUNDS):
        begun = rounds.begin(models)
        asked = _Asked(begun.round)
        there = [rank for rank in group.local if not away(rank, asked)]
        trained = {rank: models[rank] + (CENTRES[rank] - models[rank]) / 2 for rank in there}
        for forces, weight in ((begun.directions, lambda *_: 1.0), (begun.corrections, share)):
            trained = {r: row - 0.1 * weight(r, asked) * forces.get(r, 0.0) for r, row in trained.items()}
        reports = {
            rank: Report(int(begun.target_samples[rank] * share(rank, asked)), seconds(rank, asked), loss(rank, asked))
            for rank in there
        }
        gradients = {
            rank: mean_gradient(rank, begun, models[rank], row, reports[rank]) for rank, row in trained.items()
        }
        models = rounds.finish(begun, models, trained, reports, gradients=gradients)[0]
    found: NDArray[np.float64] = np.full(group.num_workers, np.nan)
    for rank, row in models.items():
        found[rank] = row.item()
    return found


def mean_gradient(rank: int, begun: Instructions, start: Tensor, end: Tensor, report: Report) -> Tensor:
    """Return what the steps of a script add up to, without the momentum that the host adds to each."""
    steps = report.samples / int(begun.batch_sizes[rank])
    direction = begun.directions.get(rank, torch.zeros(1))
    return (start - end) / (0.1 * steps) - math.ceil(steps) / steps * direction


def with_a_server(name: str, work: str, lost: tuple[int, ...] = ()) -> NDArray[np.float32]:
    gone = lambda rank, instructions: float(rank in lost) or away(rank, instructions)  # noqa: E731
    script = scripted.Script(CENTRES, seconds=seconds, share=share, loss=loss, away=gone)
    strategy = MADE[name](work=WORK[work], sgd=sgd(name), partition=Partition(), eval_every=ROUNDS)
    strategy.start(scripted.grid(script), scripted.model(), ROUNDS, evaluate_fn=lambda number, arrays: None)
    return strategy.state.rows[:, 0]


@pytest.fixture(scope="module")
def peers(three: Pool) -> dict[tuple[str, str], list[NDArray[np.float64]]]:
    """The models of every row of the table as each process sees its own."""
    found = three.call(scripted_rounds, ROWS, OWNERS)
    return {row: [of_process[row] for of_process in found] for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=[" with ".join(row) for row in ROWS])
def test_the_models_are_those_of_a_server(
    row: tuple[str, str], peers: dict[tuple[str, str], list[NDArray[np.float64]]]
) -> None:
    for process, rows in enumerate(peers[row]):
        assert [owner == process for owner in OWNERS] == np.isfinite(rows).tolist()
    models = np.nansum(peers[row], axis=0)
    np.testing.assert_allclose(models, with_a_server(*row), rtol=1e-5, atol=1e-5)
    assert np.ptp(with_a_server(*row)) > 0 or row[0].startswith("all_reduce")


def test_a_process_that_is_lost_is_absent_for_the_others(three: Pool) -> None:
    """As at a server whose workers are away: the matrix is restricted, leaders are among those present."""
    names = ["d_psgd", "d_psgd tracking", "d_psgd quasi-global", "matcha", "al_dsgd", "al_dsgd in step"]
    found, lost = three.call(without_a_process, names), tuple(np.flatnonzero(np.array(OWNERS) == 2).tolist())
    for name in names:
        models = np.nansum([of_process[name] for of_process in found[:2]], axis=0)
        expected = with_a_server(name, "expected", lost)
        left = [rank for rank in range(len(OWNERS)) if rank not in lost]
        np.testing.assert_allclose(models[left], expected[left], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["d_psgd", "al_dsgd gated"])
def test_the_bits_do_not_depend_on_the_number_of_processes(
    name: str, peers: dict[tuple[str, str], list[NDArray[np.float64]]], alone: None
) -> None:
    found = _run(name, "expected", Group((0,) * len(OWNERS)))
    assert found.tolist() == np.nansum(peers[name, "expected"], axis=0).tolist()


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (FedBuff(), "FedBuff cannot run without a server: updates are buffered at the server"),
        (OverSelection(), "OverSelection cannot run without a server: the first replies are selected by the server"),
        (
            DPSGD("ring", robust=True),
            r"DPSGD cannot run without a server: strategy\.max_update_norm and strategy\.robust",
        ),
        (AllReduce(norm_limit=NormLimit(1.0)), "AllReduce cannot run without a server: strategy.max_update_norm"),
    ],
)
def test_a_strategy_that_needs_a_server(strategy: FlowerStrategy, reason: str, alone: None) -> None:
    with pytest.raises(ValueError, match=reason):
        Rounds(strategy, Group((0, 0)), np.ones(2, dtype=np.int64), lambda rank, row: None)
