"""A training loop of one's own with neighbours, in three processes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from echelon.algorithms.mixing import metropolis
from echelon.algorithms.topology import build
from echelon.peer import Peer
from strategies import ALDSGD, DPSGD, SGD, AllReduce, FlowerStrategy, FullBatch, NonBlocking
from tests import tiny
from tests.pool import Pool
from tests.processes import wait_for

Numbers = NDArray[np.float64]

FULL = FullBatch(batch_size=8, minibatch_size=8)
X, Y = tiny.data()


def loader(size: int = 8) -> list[tuple[Tensor, Tensor]]:
    """The mini-batches of this process: every third of all."""
    return list(zip(torch.split(X, size), torch.split(Y, size), strict=True))[dist.get_rank() :: 3]


def values(model: nn.Module) -> list[float]:
    return nn.utils.parameters_to_vector(model.parameters()).tolist()


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


# --- all-reduce is DistributedDataParallel


def with_ddp(optimizer: Callable[[nn.Module], torch.optim.Optimizer], rounds: int) -> list[float]:
    model = tiny.linear()
    wrapped, optimiser, batches = nn.parallel.DistributedDataParallel(model), optimizer(model), loader()
    for number in range(rounds):
        x, y = batches[number % len(batches)]
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(wrapped(x), y))
        optimiser.step()
    return values(model)


def with_peers(optimizer: Callable[[nn.Module], torch.optim.Optimizer], rounds: int) -> list[float]:
    model = tiny.linear()
    for parameter in model.parameters():
        parameter.detach().add_(dist.get_rank())  # all start from worker 0's
    optimiser, batches = optimizer(model), loader()
    peer = Peer(AllReduce(work=FULL), model, optimiser)
    for _ in range(rounds):
        for x, y in peer.minibatches(batches):
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(x), y))
            optimiser.step()
        peer.mix()
    return values(model)


def test_all_reduce_is_distributed_data_parallel(three: Pool) -> None:
    expected = three.call(with_ddp, momentum, 6)[0]
    for found in three.call(with_peers, momentum, 6):
        np.testing.assert_allclose(found, expected, atol=1e-6)


# --- one round by hand


def scalar(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def round_of(peer: Peer, model: nn.Linear, target: float, loss: float = 0.0) -> None:
    """Move the one parameter to a value within a round, and mix."""
    for _ in peer.minibatches([torch.zeros(8, 1)]):
        nn.init.constant_(model.weight, target)
    peer.mix(loss)


def one_round(strategy: FlowerStrategy, rounds: int = 1) -> float:
    model = scalar(2.0)
    peer = Peer(strategy, model, samples=10 * (dist.get_rank() + 1))
    for _ in range(rounds):
        round_of(peer, model, 4.0**peer.rank, loss=[2.0, 1.0, 3.0][peer.rank])
    return float(model.weight)


def distance(arrays: ArrayRecord) -> float:
    return float(np.abs(arrays["weight"].numpy() - 5.0).item())


THIRDS = np.full((3, 3), 1 / 3)
Y1 = np.array([1.0, 4.0, 16.0])
BY_LOSS: dict[str, Any] = {"c1": 0.5, "c2": 0.0, "p1": 0.0, "p2": 0.0}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (DPSGD("ring", work=FULL), THIRDS @ Y1),
        (DPSGD("path", work=FULL), [(2 * 1 + 4) / 3, 7.0, (4 + 2 * 16) / 3]),
        (DPSGD("path", work=FULL, order="combine_then_adapt"), Y1),
        (AllReduce(work=FULL), np.array([1, 2, 3]) / 6 @ Y1),
        (ALDSGD("ring", work=FULL, **BY_LOSS), 0.5 * THIRDS @ Y1 + 0.5 * 4.0),
        (ALDSGD("ring", work=FULL, **BY_LOSS, signal="held_out", held_out_loss=distance), [5.5] * 3),
    ],
)
def test_one_round(three: Pool, strategy: FlowerStrategy, expected: Numbers) -> None:
    np.testing.assert_allclose(three.call(one_round, strategy), expected, rtol=1e-6)


def pulled() -> float:
    """Two rounds with a force in the steps: the first makes leaders, in the second nothing but the force acts."""
    model = scalar(0.0)
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    work = FullBatch(batch_size=8, minibatch_size=8)
    strategy = ALDSGD("path", work=work, c1=0.0, c2=0.0, p1=0.4, p2=0.0, force="in_step")
    peer = Peer(strategy, model, optimiser)
    round_of(peer, model, 4.0**peer.rank, loss=[2.0, 1.0, 3.0][peer.rank])
    for _ in peer.minibatches([torch.zeros(8, 1)]):
        model.weight.grad = torch.zeros(1, 1)
        optimiser.step()
    moved = float(model.weight)
    peer.mix(0.0)
    return moved


def test_a_force_in_the_steps(three: Pool) -> None:
    first = np.array([2.0, 7.0, 12.0])
    np.testing.assert_allclose(three.call(pulled), first - 0.5 * 0.4 * (first - first[1]), rtol=1e-6)


# --- vectors in the steps


CENTRES = np.array([1.0, -3.0, 5.0])


def quadratics(strategy: FlowerStrategy, steps: int, rounds: int) -> float:
    """Descend (x - c)^2 / 2 with this process's c, so many steps per round."""
    model = scalar(2.0)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    peer = Peer(strategy, model, optimiser)
    for _ in range(rounds):
        for _ in peer.minibatches([torch.zeros(8, 1)] * steps):
            model.weight.grad = model.weight.detach() - CENTRES[peer.rank]
            optimiser.step()
        peer.mix()
    return float(model.weight)


def test_quasi_global_momentum(three: Pool) -> None:
    work = FullBatch(local_steps=2, batch_size=8, minibatch_size=8)
    strategy = DPSGD("path", work=work, sgd=SGD(0.1, momentum=0.8), momentum_mixing="quasi_global")
    mixing, x, m = metropolis(build("path", 3)), np.full(3, 2.0), np.zeros(3)
    for _ in range(4):
        before = x
        for _ in range(2):
            x = x - 0.1 * (0.8 * m + x - CENTRES)
        x = mixing @ x
        m = 0.8 * m + 0.2 * (before - x) / 0.2
    np.testing.assert_allclose(three.call(quadratics, strategy, 2, 4), x, rtol=1e-5)


@pytest.mark.parametrize("momentum_mixing", ["local", "mixed", "quasi_global"])
def test_tracking(three: Pool, momentum_mixing: Any) -> None:
    """Corrections are summed within the steps, whatever the momentum."""
    work = FullBatch(local_steps=2, batch_size=8, minibatch_size=8)
    mu = 0.5 if momentum_mixing == "quasi_global" else 0.0
    strategy = DPSGD(
        "path", work=work, sgd=SGD(0.1, momentum=mu), momentum_mixing=momentum_mixing, correction="tracking"
    )
    mixing, x, m, c = metropolis(build("path", 3)), np.full(3, 2.0), np.zeros(3), np.zeros(3)
    for _ in range(5):
        before, z = x, np.zeros(3)
        for _ in range(2):
            corrected = x - CENTRES + c
            z = z + corrected / 2
            x = x - 0.1 * (mu * m + corrected)
        c, x = c - z + mixing @ z, mixing @ x
        m = mu * m + (1 - mu) * (before - x) / 0.2
    np.testing.assert_allclose(three.call(quadratics, strategy, 2, 5), x, rtol=1e-5)


def test_tracking_needs_sgd(alone: None) -> None:
    with pytest.raises(
        ValueError, match=r"optimizer must be torch.optim.SGD for strategy.correction=tracking; got None"
    ):
        Peer(AllReduce(work=FULL, correction="tracking"), scalar(0.0))


def test_steps_of_a_loop_of_ones_own_are_not_filled_in(alone: None) -> None:
    with pytest.raises(ValueError, match="estimator must not be memory with Peer, whose steps are the loop's own; got"):
        Peer(AllReduce(work=NonBlocking(estimator="memory")), nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("optimiser", "reason"),
    [
        (None, "for strategy.momentum_mixing=quasi_global; got None"),
        (partial(torch.optim.Adam, lr=0.1), "for strategy.momentum_mixing=quasi_global; got Adam"),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), r"which adds that of strategy.sgd; got momentum=\[0.9\]"),
    ],
)
def test_quasi_global_momentum_needs_plain_sgd(alone: None, optimiser: Any, reason: str) -> None:
    model = scalar(0.0)
    strategy = AllReduce(work=FULL, sgd=SGD(0.1, momentum=0.9), momentum_mixing="quasi_global")
    with pytest.raises(ValueError, match=f"optimizer must be torch.optim.SGD with momentum=0 .*{reason}"):
        Peer(strategy, model, optimiser and optimiser(model.parameters()))


# --- work


SIZES: dict[str, Any] = {"batch_size": 12, "minibatch_size": 2}


def until_over(work: NonBlocking, slow: list[int]) -> list[list[int]]:
    """Return the samples of all workers in every round; slow ones are in their first mini-batch until it is over."""
    peer = Peer(AllReduce(work=work), scalar(0.0))
    finish = peer._finish
    assert finish is not None
    rounds = []
    for number in range(1, 4):
        for _ in peer.minibatches([torch.zeros(2, 1)] * 5):
            if peer.rank in slow:
                wait_for(partial(finish.is_over, number), 20)
        rounds.append(peer.mix().samples.tolist())
    return rounds


@pytest.mark.parametrize(
    ("work", "slow", "samples"),
    [
        (NonBlocking(**SIZES), [1, 2], [12, 2, 2]),
        (NonBlocking(**SIZES, trigger="quorum", quorum=0.6), [2], [12, 12, 2]),
        (NonBlocking(**SIZES, trigger="quorum", quorum=1.0), [], [12, 12, 12]),
        (NonBlocking(**SIZES, min_minibatches=3), [1, 2], [12, 6, 6]),
    ],
)
def test_a_round_ends_when_enough_have_finished(
    three: Pool, work: NonBlocking, slow: list[int], samples: list[int]
) -> None:
    for rounds in three.call(until_over, work, slow):
        assert rounds == [samples] * 3


def within(work: NonBlocking, seconds: tuple[float, ...]) -> list[int]:
    """Return the samples of all workers in a round of mini-batches that take so long."""
    peer = Peer(AllReduce(work=work), scalar(0.0))
    for _ in peer.minibatches([torch.zeros(2, 1)] * 5):
        time.sleep(seconds[peer.rank])
    samples: list[int] = peer.mix().samples.tolist()
    return samples


def test_a_deadline(three: Pool) -> None:
    work = NonBlocking(**SIZES, trigger="deadline", deadline=1.0)
    for samples in three.call(within, work, (0.001, 0.3, 1.1)):
        assert samples[0] == 12
        assert samples[1] in (2, 4, 6)
        assert samples[2] == 2


def test_little_is_left_in_the_store(alone: None) -> None:
    shared = dist.HashStore()  # type: ignore[attr-defined]
    left = set()
    for rounds in (1, 2, 9):
        model = scalar(0.0)
        peer = Peer(AllReduce(work=NonBlocking(**SIZES)), model, store=shared)
        before = shared.num_keys()
        for _ in range(rounds):
            round_of(peer, model, 1.0)
        left.add(shared.num_keys() - before)
    assert left == {0}


def test_every_sample_once_in_a_pass(alone: None) -> None:
    model = scalar(0.0)
    peer = Peer(AllReduce(work=FULL), model)
    batches, seen = [torch.full((4, 1), float(number)) for number in range(5)], []
    for _ in range(5):
        for batch in peer.minibatches(batches):
            seen.append(int(batch[0]))
        peer.mix()
    assert seen == [0, 1, 2, 3, 4] * 2


# --- consensus


def consensus() -> dict[str, Tensor]:
    model = tiny.batch_norm()
    peer = Peer(DPSGD("ring", work=FULL), model)
    for x, _ in peer.minibatches(loader()):
        model(x)
        values = model.state_dict()
        values["0.weight"].fill_(float(peer.rank))
        values["1.running_mean"].fill_(3.0 * peer.rank)
        values["1.num_batches_tracked"].add_(peer.rank)
    found = peer.consensus()
    peer.mix()
    return found


def test_the_consensus_model(three: Pool) -> None:
    for found in three.call(consensus):
        assert list(found) == list(tiny.batch_norm().state_dict())
        assert found["0.weight"].unique().tolist() == [1.0]
        assert found["1.running_mean"].unique().tolist() == [3.0]
        assert found["1.num_batches_tracked"].item() == 1


# --- misuse


def unlike() -> None:
    Peer(DPSGD("ring", work=FULL), nn.Linear(1 + dist.get_rank() // 2, 1))


def test_models_that_differ(three: Pool) -> None:
    with pytest.raises(ValueError, match="must have the same model; worker 2 has 3 trainable values, worker 0 has 2"):
        three.call(unlike)


@pytest.fixture
def peer(alone: None) -> Peer:
    return Peer(AllReduce(work=FULL), scalar(0.0))


def test_mix_before_training(peer: Peer) -> None:
    with pytest.raises(RuntimeError, match="mix must follow a loop over minibatches"):
        peer.mix()


def test_two_loops(peer: Peer) -> None:
    list(peer.minibatches([torch.zeros(8)]))
    with pytest.raises(RuntimeError, match="mix must be called between two loops over minibatches"):
        peer.minibatches([torch.zeros(8)])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Linear(1, 1, dtype=torch.bfloat16), "trainable parameters must be float32; weight is torch.bfloat16"),
        (nn.Linear(1, 1).requires_grad_(False), "the model has no trainable parameter"),
    ],
)
def test_models_without_rows(model: nn.Module, reason: str, alone: None) -> None:
    with pytest.raises(ValueError, match=reason):
        Peer(AllReduce(), model)


def test_a_force_in_the_steps_needs_the_optimiser(three: Pool) -> None:
    with pytest.raises(ValueError, match=r"optimizer must be given with strategy\.force=in_step"):
        three.call(one_round, ALDSGD("ring", work=FULL, force="in_step", sgd=SGD(0.1)), 2)
