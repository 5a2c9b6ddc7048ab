"""Whatever fails in a user's data, model or functions is one line that names it, what it got, and what is wanted."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from clients import make_client_app
from clients.errors import UserCodeError, check_takes, described, naming, of_worker
from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import USER_CODE_ERROR
from strategies import AllReduce, AllWorkersFailedError, FullBatch, RosterError
from tests import tiny

X, Y = (tensor[:16] for tensor in tiny.data())


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        raise OSError(f"no file {'a' * 10}.png\nof sample")


class NoLength:
    def __len__(self) -> int:
        raise RuntimeError("unknown length")

    def __getitem__(self, index: int) -> Any:
        return X[index]


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, tiny.FEATURES))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such branch")


def no_gradient(model: nn.Module, batch: Any) -> Tensor:
    """Return a loss that cannot be differentiated, because a value that it needs is changed in place."""
    out: Tensor = model(batch[0]).exp()
    loss = out.sum()
    out.add_(1)
    return loss


def no_disk(rank: int, num_workers: int) -> Any:
    raise OSError("the disk is gone")


def no_weights() -> nn.Module:
    raise KeyError("weights")


def half_precision() -> nn.Module:
    return nn.Linear(tiny.FEATURES, 3).half()


# What is passed, and the line after "worker R: " or "UserCodeError: ".
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "load_data raises": (
        {"load_data": no_disk},
        r"worker \d: load_data\(rank, num_workers\) has failed: OSError: the disk is gone",
    ),
    "load_data returns nothing": (
        {"load_data": lambda rank, n: None},
        r"worker \d: load_data must return \(inputs, labels\), .*; got NoneType",
    ),
    "an array of objects": (
        {"load_data": lambda rank, n: (np.array([{}, {}], dtype=object), np.arange(2))},
        r"worker \d: reading what load_data returns has failed: TypeError: can't convert np.ndarray of type numpy.obj",
    ),
    "a dataset without length": (
        {"load_data": lambda rank, n: NoLength()},
        r"worker \d: reading what load_data returns has failed: RuntimeError: unknown length",
    ),
    "a sample cannot be read": (
        {"load_data": lambda rank, n: Broken()},
        r"reading the samples that load_data returns has failed: OSError: no file aaaaaaaaaa.png of sample",
    ),
    "nor by a process of a loader": (
        {"load_data": lambda rank, n: DataLoader(Broken(), num_workers=1)},
        r"reading the samples that load_data returns has failed: OSError: of sample",
    ),
    "samples of unequal shape": (
        {"load_data": lambda rank, n: [(X[0, : i % 2 + 1], 0) for i in range(16)]},
        r"reading the samples that load_data returns has failed: RuntimeError: stack expects each tensor",
    ),
    "build_model raises": ({"build_model": no_weights}, r"build_model\(\) has failed: KeyError: 'weights'"),
    "build_model returns a class": (
        {"build_model": lambda: nn.Linear},
        r"build_model must return a torch.nn.Module; got type",
    ),
    "build_model is a model": (
        {"build_model": tiny.linear()},
        r"build_model\(\) has failed: TypeError: Linear.forward\(\) missing 1 required positional argument",
    ),
    "a lazy model": (
        {"build_model": lambda: nn.LazyLinear(3)},
        r"build_model: weight has no shape yet: pass a mini-batch through a model with lazy modules before",
    ),
    "a model of half precision": (
        {"build_model": half_precision},
        r"build_model: trainable parameters must be float32; weight is torch.float16",
    ),
    "a model without parameters": ({"build_model": nn.Flatten}, r"build_model: the model has no trainable parameter"),
    "a model on no device": (
        {"build_model": lambda: nn.Linear(2, 2, device="meta")},
        r"moving build_model's model to cpu has failed: NotImplementedError: Cannot copy out of meta tensor",
    ),
    "inputs of another width": (
        {"load_data": lambda rank, n: (X[:, :2], Y)},
        r"the default loss, cross_entropy\(model\(inputs\), labels\), has failed on a mini-batch of "
        r"\(float32 \(4, 2\), int64 \(4,\)\): RuntimeError: .*mat1 and mat2 shapes cannot be multiplied",
    ),
    "a label too large": (
        {"load_data": lambda rank, n: (X, Y + 3)},
        r"has failed on a mini-batch of \(float32 \(4, 5\), int64 \(4,\)\): IndexError: Target \d is out of bounds",
    ),
    "a model that fails": (
        {"build_model": Failing},
        r"the default loss, .*, has failed on .*: RuntimeError: no such branch",
    ),
    "a loss of outputs and labels": (
        {"loss": lambda outputs, labels: functional.cross_entropy(outputs, labels, reduction="sum")},
        r"loss\(model, batch\) has failed on a mini-batch of \(float32 \(4, 5\), int64 \(4,\)\): ",
    ),
    "a loss that is no number": (
        {"loss": lambda model, batch: model(batch[0])},
        r"loss must return one number that depends on the model's parameters; got a tensor of shape \(4, 3\)",
    ),
    "a loss without a gradient": (
        {"loss": no_gradient},
        r"the gradient of loss\(model, batch\) has failed: RuntimeError: one of the variables needed for gradient",
    ),
    "an optimiser that fails": (
        {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=-1.0)},
        r"optimizer\(parameters\) has failed: ValueError: Invalid learning rate: -1.0",
    ),
    "an optimiser that is none": (
        {"optimizer": lambda parameters: parameters},
        r"optimizer must return a torch.optim.Optimizer; got list",
    ),
}


def start(options: dict[str, Any], wall_clock: bool) -> None:
    functions = {"load_data": lambda rank, n: (X, Y), "build_model": tiny.linear} | options
    app = make_client_app(
        functions.pop("load_data"),
        functions.pop("build_model"),
        device="cpu",
        fleet=None if wall_clock else tiny.fleet(1.0),
        **functions,
    )
    AllReduce(work=FullBatch(1, 8, 4), num_workers=2, max_empty_rounds=1).start(InlineGrid(app, 2), tiny.arrays(), 1)


@pytest.mark.parametrize("wall_clock", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_in_a_run(name: str, wall_clock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real device meets the error as it measures itself, a simulated one when it trains; nothing is tried again."""
    monkeypatch.setattr("echelon.server.registration._REPEAT_SECONDS", (60.0,))
    options, line = CASES[name]
    with pytest.raises((RosterError, AllWorkersFailedError)) as caught:
        start(options, wall_clock)
    assert re.search(f"UserCodeError: .*{line}", str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        (
            lambda outputs, labels: {"accuracy": (outputs.argmax(1) == labels).sum()},
            r"metrics\(model, batch\) has failed",
        ),
        (lambda model, batch: 0.5, r"metrics must return numbers by name, as in \{'accuracy': 0.5\}; got a float"),
        (lambda model, batch: {"a": model(batch[0])}, "metrics must return one number for a; got a tensor of shape"),
        (lambda model, batch: {"num-examples": 3}, "metrics must not return num-examples, which is the number of"),
    ],
)
def test_metrics(metrics: Any, line: str) -> None:
    """An evaluation that fails does not end the run; the record names the worker and the reason."""
    app = make_client_app(lambda rank, n: (X, Y), tiny.linear, metrics=metrics, device="cpu", fleet=tiny.fleet(1.0))
    records: list[tiny.Record] = []
    strategy = AllReduce(work=FullBatch(1, 8, 4), on_round=[lambda record, state: records.append(record)], eval_every=1)
    strategy.start(InlineGrid(app, 2), tiny.arrays(), 1)
    failures = records[-1]["evaluation_failures"]
    assert sorted(failures) == [0, 1]
    assert all(re.search(line, reason) for reason in failures.values())


def test_its_name_is_in_the_protocol() -> None:
    assert UserCodeError.__name__ == USER_CODE_ERROR


class TestFunctionsOfOtherArguments:
    """They are refused where they are passed."""

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            ({"load_data": lambda: (X, Y)}, r"load_data must be a function of \(rank, num_workers\); got one of \(\)"),
            ({"load_data": (X, Y)}, r"load_data must be a function of \(rank, num_workers\); got tuple"),
            (
                {"build_model": lambda rank: tiny.linear()},
                r"build_model must be a function of no arguments; got one of",
            ),
            ({"loss": lambda model: 0.0}, r"loss must be a function of \(model, batch\); got one of \(model\)"),
            (
                {"metrics": lambda a, b, c: {}},
                r"metrics must be a function of \(model, batch\); got one of \(a, b, c\)",
            ),
        ],
    )
    def test_refused(self, options: dict[str, Any], line: str) -> None:
        functions: dict[str, Any] = {"load_data": lambda rank, n: (X, Y), "build_model": tiny.linear} | options
        with pytest.raises(TypeError, match=line):
            make_client_app(functions.pop("load_data"), functions.pop("build_model"), **functions)

    def test_what_has_no_signature_is_tried(self) -> None:
        check_takes(dict, "load_data", "rank", "num_workers")

    def test_load_data_of_a_context_and_options(self) -> None:
        def load_data(context: Any, split: str = "train") -> Any:
            assert context.node_config["partition-id"] in (0, 1)
            return TensorDataset(X, Y)

        start({"load_data": load_data}, wall_clock=False)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (X, "float32 (16, 5)"),
        ([X, Y], "(float32 (16, 5), int64 (16,))"),
        ({"ids": Y, "texts": ["a"]}, "{ids: int64 (16,), texts: (str)}"),
        (np.zeros(3), "float64 (3,)"),
        (None, "NoneType"),
    ],
)
def test_described(batch: Any, said: str) -> None:
    assert described(batch) == said


def failing(error: Exception) -> Callable[[], None]:
    def call() -> None:
        with of_worker(3), naming("f(x)"):
            raise error

    return call


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "worker 3: f(x) has failed: ValueError: two lines"),
        (UserCodeError("named already"), "worker 3: named already"),
        (RuntimeError(), "worker 3: f(x) has failed: RuntimeError: "),
        (ValueError("x" * 400), f"worker 3: f(x) has failed: ValueError: {'x' * 300}..."),
    ],
)
def test_one_line(error: Exception, line: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        failing(error)()
    assert str(caught.value) == line
