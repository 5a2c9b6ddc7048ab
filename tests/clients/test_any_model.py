"""Any model trains under any strategy to the numbers of a plain PyTorch loop, alone and beside another worker."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from clients import make_client_app, rank_of
from clients.data import as_indexed
from echelon.algorithms.partial import sample_order
from echelon.engines.inline import InlineGrid
from strategies import ALDSGD, DPSGD, SGD, AllReduce, FlowerStrategy, FullBatch, RosterError
from tests import tiny
from tests.clients.any_model import CASES, SAMPLES, Case, inputs, labels

ROUNDS, BATCH, MINIBATCH, RATE, DECAY = 3, 8, 4, 0.05, 0.01
MOMENTUM = 0.9

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY),
    "adamw": lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=DECAY),
}
STRATEGIES: dict[str, Callable[..., FlowerStrategy]] = {
    "all_reduce": AllReduce,
    "d_psgd": lambda **options: DPSGD("path", **options),
    "al_dsgd": lambda **options: ALDSGD("path", **options),
}


def initial(case: Case) -> dict[str, Tensor]:
    """Return the arrays to start from: all of a model that Flower can carry, or what it trains and its buffers."""
    module = case.module()
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    carried = all(tensor.dtype != torch.bfloat16 for tensor in module.state_dict().values())
    return {name: tensor for name, tensor in module.state_dict().items() if carried or name not in frozen}


def run(case: Case, strategy: str, optimizer: str, workers: int) -> tiny.Run:
    app = make_client_app(
        lambda rank, num_workers: case.data(),
        case.module,
        loss=case.loss,
        reduction=case.reduction,
        optimizer=optimizer,
        device="cpu",
        fleet=tiny.fleet(1.0),
    )
    records: list[tiny.Record] = []
    made = STRATEGIES[strategy](
        work=FullBatch(1, BATCH, MINIBATCH),
        sgd=SGD(RATE, MOMENTUM, DECAY),
        on_round=[lambda record, state: records.append(record)],
        eval_every=ROUNDS,
    )
    result = made.start(InlineGrid(app, workers), ArrayRecord(initial(case)), ROUNDS)
    return tiny.Run(made, result, records)


class Plain:
    """A worker as anybody would write it: torch's modules, optimisers and loops."""

    def __init__(self, case: Case, optimizer: str) -> None:
        self.case, self.module, self.data = case, case.module().train(), as_indexed(case.data())
        self.unsaved = {n: b.clone() for n, b in self.module.named_buffers() if n not in self.module.state_dict()}
        self.trained: list[Tensor] = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[optimizer](self.trained)

    def step(self, rank: int, number: int) -> float:
        """Take one step on the run's samples; return the mean loss."""
        for name, value in self.unsaved.items():
            setattr(self.module, name, value.clone())
        order = torch.from_numpy(sample_order(0, rank, 0, SAMPLES)[number * BATCH :][:BATCH])
        self.optimizer.zero_grad()
        total = 0.0
        for indices in torch.split(order, MINIBATCH):
            loss = self.case.summed(self.module, self.data.batch(indices, np.random.default_rng(0)), len(indices))
            torch.autograd.backward(loss / BATCH)
            total += loss.item()
        self.optimizer.step()
        return total / BATCH

    @property
    def state(self) -> list[Tensor]:
        """What of the optimiser's state is as large as the parameters."""
        return [v for p in self.trained for v in self.optimizer.state[p].values() if v.shape == p.shape]


@torch.no_grad()
def mix(matrix: list[list[float]], vectors: list[list[Tensor]]) -> None:
    """Combine two workers' lists of tensors in place."""
    for pair in zip(*vectors, strict=True):
        old = [tensor.double().clone() for tensor in pair]
        for tensor, weights in zip(pair, matrix, strict=True):
            tensor.copy_(sum(weight * value for weight, value in zip(weights, old, strict=True)))


def leaders(losses: list[float]) -> list[list[float]]:
    """AL-DSGD's operator for two neighbours of equal degree: A W + B P_b + D I with its default weights."""
    c1, c2, p1, p2 = 0.3, 0.1, 0.1, 0.1
    a, b, d = (1 - p1 - p2) * (1 - c1 - c2), (1 - p1 - p2) * c1 + p1, (1 - p1 - p2) * c2 + p2
    best = int(losses[1] < losses[0])
    return [[a / 2 + b * (best == j) + d * (i == j) for j in range(2)] for i in range(2)]


def expected(case: Case, strategy: str, optimizer: str, workers: int) -> tuple[list[Plain], list[list[float]]]:
    plain = [Plain(case, optimizer) for _ in range(workers)]
    losses = []
    for number in range(ROUNDS):
        losses.append([worker.step(rank, number) for rank, worker in enumerate(plain)])
        if workers == 2:
            matrix = leaders(losses[-1]) if strategy == "al_dsgd" else [[0.5, 0.5], [0.5, 0.5]]
            mix(matrix, [worker.trained for worker in plain])
            if strategy == "all_reduce":
                mix(matrix, [worker.state for worker in plain])
    return plain, losses


def assert_close(found: Mapping[str, Tensor], module: nn.Module) -> None:
    for name, value in module.state_dict().items():
        if name in found:
            torch.testing.assert_close(found[name], value, rtol=2e-5, atol=2e-6, msg=name)
        else:
            assert not dict(module.named_parameters())[name].requires_grad, name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CASES)
class TestContract:
    def test_alone(self, name: str, strategy: str, optimizer: str) -> None:
        case = CASES[name]
        ours = run(case, strategy, optimizer, 1)
        (plain,), losses = expected(case, strategy, optimizer, 1)
        assert ours.column("train_loss") == pytest.approx([loss for (loss,) in losses], rel=1e-5)
        assert ours.result.arrays is not None
        assert_close(ours.result.arrays.to_torch_state_dict(), plain.module)

    def test_beside_another_worker(self, name: str, strategy: str, optimizer: str) -> None:
        case = CASES[name]
        ours = run(case, strategy, optimizer, 2)
        plain, losses = expected(case, strategy, optimizer, 2)
        assert ours.column("train_loss_per_worker") == [pytest.approx(of_round, rel=1e-5) for of_round in losses]
        assert all(record["rejected"] == 0 for record in ours.records)
        session, state = ours.strategy.session, ours.strategy.state
        for rank, worker in enumerate(plain):
            arrays = session.layout.arrays(state.rows[rank], state.exact[rank])
            assert_close(arrays.to_torch_state_dict(), worker.module)


def test_result_can_be_loaded() -> None:
    """The consensus model has the names, shapes and types of the initial one, tied and frozen values included."""
    for name, case in CASES.items():
        result = run(case, "d_psgd", "sgd", 2).result
        assert result.arrays is not None
        module = case.module()
        frozen = {n for n, p in module.named_parameters() if not p.requires_grad}
        missing, unexpected = module.load_state_dict(result.arrays.to_torch_state_dict(), strict=False)
        assert set(missing) <= (frozen if name == "bf16 base" else set())
        assert not unexpected


def test_initial_arrays_may_be_the_trainable_part_alone() -> None:
    for name in ("frozen base", "batch norm", "buffers"):
        case = CASES[name]
        whole = run(case, "d_psgd", "sgd", 2)
        module = case.module()
        alone = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
        app = make_client_app(lambda rank, n: case.data(), case.module, device="cpu", fleet=tiny.fleet(1.0))  # noqa: B023
        made = STRATEGIES["d_psgd"](work=FullBatch(1, BATCH, MINIBATCH), sgd=SGD(RATE, MOMENTUM, DECAY))
        made.start(InlineGrid(app, 2), ArrayRecord(alone), ROUNDS)
        assert made.state.rows.tobytes() == whole.rows.tobytes()
        assert made.state.exact.tobytes() == whole.strategy.state.exact.tobytes()


def test_a_frozen_base_does_not_travel() -> None:
    case = CASES["frozen base"]
    found = run(case, "al_dsgd", "sgd", 2)
    adapters = sum(p.numel() * 4 for p in case.module().parameters() if p.requires_grad)
    assert found.strategy.session.layout.num_bytes == adapters
    assert found.rows.shape[1] * 4 == adapters


def test_a_worker_without_samples_takes_part_in_the_averaging() -> None:
    for optimizer in OPTIMIZERS:
        for name, make in STRATEGIES.items():
            app = make_client_app(
                lambda rank, n: (tiny.data()[0][: 24 * rank], tiny.data()[1][: 24 * rank]),
                tiny.linear,
                optimizer=optimizer,
                device="cpu",
                fleet=tiny.fleet(1.0),
            )
            records: list[tiny.Record] = []
            made = make(sgd=SGD(RATE, MOMENTUM), on_round=[lambda record, state: records.append(record)])  # noqa: B023
            made.start(InlineGrid(app, 2), tiny.arrays(), 3)
            assert [record["samples"][0] for record in records] == [0, 0, 0], name
            assert [record["rejected"] for record in records] == [0, 0, 0]
            start = tiny.vector(tiny.arrays())
            assert not np.allclose(made.state.rows[0], start), "it follows its neighbour"
            assert np.isfinite(made.state.rows).all()


def with_base(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return CASES["frozen base"].build()


def grid_of(seeds: list[int]) -> InlineGrid:
    """A grid whose workers have frozen bases drawn from these seeds."""
    apps = {
        seed: make_client_app(
            lambda rank, n: (inputs(), labels()), partial(with_base, seed), device="cpu", fleet=tiny.fleet(1.0)
        )
        for seed in seeds
    }

    def app(message: Message, context: Context) -> Message:
        return apps[seeds[rank_of(context)]](message, context)

    return InlineGrid(cast(ClientApp, app), len(seeds))


class TestFrozenParametersThatDiffer:
    adapters = ArrayRecord({n: p.detach() for n, p in with_base(1).named_parameters() if p.requires_grad})

    @pytest.mark.parametrize("seeds", [[1, 2, 1], [1, 2]])
    def test_the_odd_one_is_named(self, seeds: list[int]) -> None:
        message = "build_model must return the same model on every worker; that of worker 1 has other tied or frozen"
        with pytest.raises(ValueError, match=message):
            AllReduce().start(grid_of(seeds), self.adapters, 1)

    def test_the_servers_own(self) -> None:
        with pytest.raises(ValueError, match=r"the frozen parameters of the initial arrays .* are not those of the"):
            AllReduce().start(grid_of([1, 1]), ArrayRecord(with_base(2).state_dict()), 1)
        AllReduce().start(grid_of([1, 1]), ArrayRecord(with_base(1).state_dict()), 1)


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("bias", "received arrays must match the model; bias is in only one of them"),
        (None, "received arrays must match the model; more is in only one of them"),
    ],
)
def test_initial_arrays_of_another_model(drop: str | None, message: str) -> None:
    arrays = {name: array for name, array in tiny.arrays().items() if name != drop}
    if drop is None:
        arrays["more"] = tiny.arrays()["bias"]
    with pytest.raises(RosterError, match=f"every worker failed in the handshake.*{message}"):
        AllReduce().start(tiny.grid(2), ArrayRecord(arrays), 1)
