import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from torch import nn

from clients.model import FlatModel
from tests import tiny


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    return module


@pytest.mark.parametrize("build", [tiny.linear, tiny.batch_norm, tied])
def test_arrays_round_trip(build: tiny.Model) -> None:
    model = FlatModel(build())
    with torch.random.fork_rng():
        other = {
            name: torch.randn_like(v) if v.is_floating_point() else v + 7 for name, v in build().state_dict().items()
        }
    if build is tied:
        other["1.weight"] = other["0.weight"]
    model.load(ArrayRecord(other))
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array.numpy(), other[name].numpy())
        assert array.numpy().dtype == other[name].numpy().dtype


def test_vectors_are_the_modules_parameters() -> None:
    model = FlatModel(tiny.batch_norm())
    assert model.parameters.shape == (5 * 8 + 8 + 8 + 8 + 8 * 3 + 3,)
    with torch.no_grad():
        model.parameters.fill_(2.0)
    assert all((p == 2).all() for p in model.module.parameters())
    model.module(torch.ones(2, 5)).sum().backward()
    gradients = torch.cat([p.grad.reshape(-1) for p in model.module.parameters() if p.grad is not None])
    assert torch.equal(gradients, model.gradients)
    assert model.gradients.any()


def test_tied_parameters_have_one_place() -> None:
    assert FlatModel(tied()).parameters.shape == (16,)


def test_flatten_and_unflatten() -> None:
    model = FlatModel(tiny.batch_norm())
    flat = torch.arange(float(len(model.parameters)))
    named = model.unflatten(flat)
    assert list(named) == [name for name, _ in model.module.named_parameters()]
    assert named["0.weight"].shape == (8, 5)
    assert torch.equal(model.flatten(named), flat)


def test_arrays_sent_are_not_changed_by_later_steps() -> None:
    model = FlatModel(tiny.linear())
    sent = model.arrays()
    before = sent["weight"].numpy().copy()
    with torch.no_grad():
        model.parameters.zero_()
    np.testing.assert_array_equal(sent["weight"].numpy(), before)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weight": torch.zeros(3, 5)}, "received arrays must match the model; bias is in only one of them"),
        ({"weight": torch.zeros(3, 5), "bias": torch.zeros(3), "more": torch.zeros(1)}, "more is in only one of them"),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, r"array weight must have shape \(3, 5\); got \(3, 4\)"),
    ],
)
def test_arrays_of_another_model(arrays: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlatModel(tiny.linear()).load(ArrayRecord(arrays))


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parameters must be float32; weight is torch\.float64"):
        FlatModel(nn.Linear(2, 2).double())


def test_frozen_parameters_have_no_place() -> None:
    module = tiny.batch_norm()
    module[0].weight.requires_grad_(False)  # type: ignore[index]
    model = FlatModel(module)
    assert model.parameters.shape == (8 + 8 + 8 + 8 * 3 + 3,)
    assert "0.weight" not in model.arrays()
    assert "0.weight" not in model.unflatten(model.parameters)
