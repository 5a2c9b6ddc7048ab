"""Models, data and losses of many kinds, each in one row of a table; enrols them in the contract of test_any_model."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import IterableDataset, TensorDataset

from clients.objectives import Loss, Reduction, cross_entropy

FEATURES, CLASSES, SAMPLES = 6, 3, 24


def inputs(count: int = SAMPLES) -> Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(3))


def labels(count: int = SAMPLES) -> Tensor:
    return (inputs(count) @ torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(4))).argmax(1)


@dataclass(frozen=True)
class Case:
    """A model and its data; ``build`` is called under a fixed seed."""

    build: Callable[[], nn.Module]
    data: Callable[[], Any] = lambda: (inputs(), labels())
    loss: Loss | None = None
    reduction: Reduction = "sum"

    def module(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return self.build()

    def summed(self, model: nn.Module, batch: Any, samples: int) -> Tensor:
        found = (self.loss or cross_entropy)(model, batch)
        return found * samples if self.reduction == "mean" else found


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(FEATURES, FEATURES, bias=False), nn.Linear(FEATURES, CLASSES)
        self.second = nn.Module()
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        second: Any = self.second.weight
        out: Tensor = self.out(torch.tanh(functional.linear(hidden, second)))
        return out


class Buffers(nn.Module):
    """A buffer of every kind: moved in place, assigned anew, of other types, constant, infinite, not saved."""

    shift: Tensor
    mean: Tensor
    steps: Tensor
    precise: Tensor
    active: Tensor
    mask: Tensor
    unsaved: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("shift", torch.linspace(0, 1, FEATURES))
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("steps", torch.tensor(2**53 + 1))
        self.register_buffer("precise", torch.full((2,), 1 / 3, dtype=torch.float64))
        self.register_buffer("active", torch.tensor([True, False]))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("unsaved", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            self.steps += 1
            self.precise.mul_(1 + 1e-12)
            self.unsaved = self.unsaved + 1
        weight = self.mask.softmax(0)[0] + self.active.sum()
        out: Tensor = self.out(weight * (x + self.shift - self.mean)) * (1 + 0.1 * self.unsaved)
        return out


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank adapter (LoRA)."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = nn.Linear(FEATURES, CLASSES).to(dtype).requires_grad_(False)
        self.down = nn.Linear(FEATURES, 2, bias=False)
        self.up = nn.Linear(2, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x.to(self.base.weight.dtype)).float() + self.up(self.down(x))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.view(-1, 3, 2))
        out: Tensor = self.out(states[:, -1])
        return out


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.out(self.embed(tokens))
        return out


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(inputs(), labels().tolist(), strict=True))


def linear() -> nn.Module:
    return nn.Linear(FEATURES, CLASSES)


def before_norm() -> nn.Module:
    """A layer without bias, whose gradient would be zero but for rounding, which AdamW magnifies."""
    return nn.Linear(FEATURES, 4, bias=False)


def with_lora() -> nn.Module:
    """Return a perceptron with adapters of peft and a head that is trained as a whole."""
    from peft import LoraConfig, get_peft_model  # here, because it takes seconds to import

    module = nn.Sequential(OrderedDict(first=nn.Linear(FEATURES, 4), act=nn.Tanh(), head=nn.Linear(4, CLASSES)))
    adapted: nn.Module = get_peft_model(module, LoraConfig(r=2, target_modules=["first"], modules_to_save=["head"]))
    return adapted


def tokens() -> Tensor:
    return torch.randint(0, 5, (SAMPLES, 7), generator=torch.Generator().manual_seed(6))


def of_dict(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch["x"]), batch["y"])


def hugging_face() -> Any:
    return datasets.Dataset.from_dict({"x": inputs().tolist(), "y": labels().tolist()})


CASES = {
    "linear": Case(linear),
    "tied weights": Case(Tied),
    "buffers": Case(Buffers),
    "frozen base": Case(lambda: Adapted(torch.float32)),
    "bf16 base": Case(lambda: Adapted(torch.bfloat16)),
    "lora": Case(with_lora),
    "lstm": Case(Recurrent),
    "group norm": Case(lambda: nn.Sequential(before_norm(), nn.GroupNorm(1, 4), nn.Linear(4, CLASSES))),
    "batch norm": Case(lambda: nn.Sequential(before_norm(), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))),
    "spectral norm": Case(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(FEATURES, CLASSES))),
    "multi-label": Case(
        linear,
        lambda: (inputs(), (inputs()[:, :CLASSES] > 0).float()),
        lambda model, b: functional.binary_cross_entropy_with_logits(model(b[0]), b[1], reduction="sum"),
    ),
    "tokens": Case(
        Tokens,
        lambda: (tokens(), tokens()),
        lambda model, b: functional.cross_entropy(model(b[0]).flatten(0, 1), b[1].flatten()),
        "mean",
    ),
    "regression": Case(
        lambda: nn.Linear(FEATURES, 1),
        lambda: (inputs(), inputs().sum(1, keepdim=True)),
        lambda model, b: functional.mse_loss(model(b[0]), b[1], reduction="sum"),
    ),
    "autoencoder": Case(
        lambda: nn.Sequential(nn.Linear(FEATURES, 2), nn.Linear(2, FEATURES)),
        inputs,
        lambda model, x: functional.mse_loss(model(x), x),
        "mean",
    ),
    "dict batches": Case(linear, lambda: {"x": inputs(), "y": labels()}, of_dict, "mean"),
    "hugging face": Case(linear, hugging_face, of_dict, "mean"),
    "map-style": Case(linear, lambda: TensorDataset(inputs(), labels())),
    "iterable": Case(linear, Stream),
}
