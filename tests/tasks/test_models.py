"""Contract of every row in the table of models."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tasks import MODELS, Shape, build_model, load

SIGNAL, DIGITS, COLOUR = Shape((1, 128), 4), Shape((1, 8, 8), 10), Shape((3, 32, 32), 10)
# Small inputs that keep the networks cheap; DIGITS where nothing is said.
TINY = {"cnn1d": Shape((1, 16), 4), "vgg16": Shape((1, 32, 32), 10)}
# Published: 199,210 (McMahan et al. 2017), 11.17 M, 23.5 M, 36.5 M (Zagoruyko & Komodakis 2016), 14.7 M.
PARAMETERS = {
    "mlp": (Shape((1, 28, 28), 10), 199_210),
    "cnn": (COLOUR, 545_098),
    "cnn1d": (SIGNAL, 273_348),
    "resnet18": (COLOUR, 11_173_962),
    "resnet50": (COLOUR, 23_520_842),
    "wrn28_10": (COLOUR, 36_479_194),
    "vgg16": (COLOUR, 14_728_266),
}
NAMES = list(MODELS)


def total(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_has_the_published_number_of_parameters(name: str) -> None:
    shape, expected = PARAMETERS[name]
    with torch.device("meta"):
        assert total(build_model(name, shape)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_starts_from_its_seed_alone_and_trains_on_a_tiny_grey_batch(name: str) -> None:
    shape = TINY.get(name, DIGITS)
    state = torch.get_rng_state()
    first = build_model(name, shape, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    model = build_model(name, shape, seed=3)
    torch.set_rng_state(state)
    again = model.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    x = torch.randn(2, *shape.input_shape, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    assert logits.shape == (2, shape.num_classes)
    torch.autograd.backward(functional.cross_entropy(logits, torch.tensor([0, 1])))
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert logits.std() > 0


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_another_seed_changes_every_weight(name: str) -> None:
    first, other = (build_model(name, DIGITS, seed=seed).state_dict() for seed in (3, 4))
    weights = [key for key in first if first[key].ndim > 1]
    assert weights
    assert not any(torch.equal(first[key], other[key]) for key in weights)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn1d"])
def test_small_models_have_no_buffers(name: str) -> None:
    assert list(build_model(name, SIGNAL if name == "cnn1d" else COLOUR).buffers()) == []


@pytest.mark.parametrize("side", [8, 28, 32])
def test_cnn_takes_small_images_and_stays_small(side: int) -> None:
    model = build_model("cnn", Shape((1, side, side), 10))
    assert model(torch.zeros(1, 1, side, side)).shape == (1, 10)
    assert total(model) == {8: 53_002, 28: 421_642, 32: 544_522}[side]


def test_the_stem_keeps_the_size_of_the_image() -> None:
    model = build_model("resnet18", COLOUR)
    assert isinstance(model.maxpool, nn.Identity)
    assert isinstance(model.conv1, nn.Conv2d)
    assert model.conv1(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 32, 32)
    # N(0, 2 / fan-out): 64 filters of 3x3.
    assert model.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("name", "shape", "allowed"),
    [
        ("cnn1d", DIGITS, "mlp, cnn, resnet18, resnet50, wrn28_10"),
        ("vgg16", DIGITS, "mlp, cnn, resnet18, resnet50, wrn28_10"),
        ("cnn", SIGNAL, "mlp, cnn1d"),
        ("alexnet", COLOUR, "mlp, cnn, resnet18, resnet50, wrn28_10, vgg16"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_those_that_do(name: str, shape: Shape, allowed: str) -> None:
    with pytest.raises(ValueError, match=r"model must be one of") as caught:
        build_model(name, shape)
    assert str(caught.value) == f"model must be one of {allowed} for inputs of shape {shape.input_shape}; got {name}"


def test_a_task_serves_as_its_shape() -> None:
    task = load("digits")
    from_task, from_shape = build_model("mlp", task, seed=2), build_model("mlp", DIGITS, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(from_task.parameters(), from_shape.parameters(), strict=True))
