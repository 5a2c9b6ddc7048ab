import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks import build_model, evaluate, load


class Constant(nn.Module):
    """Gives class 3 a logit of 2 and records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: set[tuple[bool, bool]] = set()
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.add((self.training, torch.is_inference_mode_enabled()))
        self.sizes.append(len(x))
        return functional.one_hot(torch.full((len(x),), 3), 10).float() * 2


def test_is_the_mean_over_all_samples() -> None:
    split = load("digits").test
    model = Constant()
    loss, accuracy = evaluate(model, split, batch_size=100)
    share = (split.y == 3).double().mean().item()
    assert accuracy == pytest.approx(share)
    assert loss == pytest.approx(math.log(9 + math.exp(2)) - 2 * share, rel=1e-6)
    assert model.sizes == [100, 100, 100, 55]


def test_does_not_depend_on_the_batch_size() -> None:
    task = load("digits")
    model = build_model("cnn", task, seed=0)
    one, other = evaluate(model, task.test, batch_size=1000), evaluate(model, task.test, batch_size=7)
    assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_infers_in_evaluation_mode_and_restores_the_mode(training: bool) -> None:
    model = Constant().train(training)
    evaluate(model, load("digits", test_limit=10).test)
    assert model.modes == {(False, True)}
    assert model.training is training


def test_restores_the_mode_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        evaluate(model, load("digits", test_limit=10).test)
    assert model.training
