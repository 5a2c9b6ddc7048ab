"""A model that travels as one array is the same as by its names."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from torch import nn

from clients.model import FlatModel
from echelon.protocol.layout import ArrayLayout
from tests import tiny


class Odd(nn.Module):
    """Buffers in several types, one that is not saved, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("small", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("wide", torch.ones(2, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)


BUILDS = [tiny.linear, tiny.batch_norm, Odd]


def changed(build: tiny.Model) -> FlatModel:
    """A model with other values."""
    model = FlatModel(build())
    with torch.no_grad():
        model.parameters.copy_(torch.arange(float(len(model.parameters))))
        for buffer in model.module.buffers():
            buffer.add_(1)
    return model


def layout_of(model: FlatModel, *, reverse: bool, personal: tuple[str, ...] = ()) -> ArrayLayout:
    arrays = model.arrays()
    names = sorted(arrays, reverse=True) if reverse else list(arrays)
    return ArrayLayout(ArrayRecord({name: arrays[name] for name in names}), model.parts, personal).form(rows=True)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_model_goes_and_comes_back(build: tiny.Model, reverse: bool) -> None:
    model = changed(build)
    named, layout = model.arrays(), layout_of(model, reverse=reverse)
    sent = layout.write(layout.pack(_values(named)), layout.pack_exact(_values(named)))
    other = FlatModel(build())
    other.load(sent)
    back = other.arrays()
    assert bytes_of(back) == bytes_of(sent)
    other._form = None
    assert bytes_of(other.arrays()) == bytes_of(named)


@pytest.mark.parametrize("reverse", [False, True])
def test_vectors_go_and_come_back(reverse: bool) -> None:
    model = changed(tiny.batch_norm)
    layout = layout_of(model, reverse=reverse, personal=("0.weight",))
    values = _values(model.arrays())
    momentum = layout.parameter_arrays(layout.pack(values)[: layout.num_parameters])
    model.load(layout.write(layout.pack(values), layout.pack_exact(values)))
    flat = model.flatten(momentum)
    assert torch.equal(flat, model.parameters)
    flat += 1  # its own memory
    assert bytes_of(model.unflatten(model.parameters)) == bytes_of(momentum)


def test_named_arrays_after_a_row() -> None:
    model = changed(tiny.linear)
    named, layout = model.arrays(), layout_of(model, reverse=False)
    model.load(layout.write(np.zeros(layout.size, np.float32), np.empty(0, np.uint8)))
    assert not model.parameters.any()
    model.load(named)
    assert bytes_of(model.arrays()) == bytes_of(named)


def test_rows_of_another_model() -> None:
    layout = layout_of(FlatModel(tiny.batch_norm()), reverse=False)
    sent = layout.write(np.zeros(layout.size, np.float32), np.zeros(layout.exact_size, np.uint8))
    with pytest.raises(ValueError, match="received arrays must match the model"):
        FlatModel(tiny.linear()).load(sent)
    larger = FlatModel(nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"the row must have 21 values, as the model has; got \(18,\)"):
        larger.load(
            layout_of(FlatModel(tiny.linear()), reverse=False).write(np.zeros(18, np.float32), np.empty(0, np.uint8))
        )


def bytes_of(arrays: ArrayRecord) -> dict[str, bytes]:
    return {name: array.data for name, array in arrays.items()}


def _values(arrays: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    return {name: array.numpy() for name, array in arrays.items()}
