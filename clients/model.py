"""A torch model with all parameters in one vector and all gradients in another, for vectorised optimiser steps."""

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor, nn

from echelon.protocol.messages import as_ndarray


class FlatModel:
    """Wrap a module; its parameters become views of ``parameters``, their gradients views of ``gradients``.

    Parameters
    ----------
    module : torch.nn.Module
        With float32 parameters.
    device : str
        Compute device.

    Attributes
    ----------
    parameters, gradients : tensor, shape (P,)
        All parameters, and their gradients.
    frozen : bool tensor, shape (P,), or None
        Mask of the parameters without a gradient; None if every parameter has one.

    Raises
    ------
    ValueError
        If a parameter is not float32.
    """

    def __init__(self, module: nn.Module, device: str = "cpu") -> None:
        self.module = module.to(device)
        self.device = device
        named = dict(module.named_parameters())
        for name, parameter in named.items():
            if parameter.dtype != torch.float32:
                raise ValueError(f"parameters must be float32; {name} is {parameter.dtype}: return model.float()")
        size = sum(p.numel() for p in named.values())
        self.parameters = torch.empty(size, device=device)
        self.gradients = torch.zeros(size, device=device)
        self._slices: dict[str, tuple[slice, torch.Size]] = {}
        start = 0
        for name, parameter in named.items():
            piece = slice(start, start + parameter.numel())
            self._slices[name] = (piece, parameter.shape)
            self.parameters[piece] = parameter.detach().reshape(-1)
            parameter.data = self.parameters[piece].view(parameter.shape)
            parameter.grad = self.gradients[piece].view(parameter.shape)
            start = piece.stop
        needed = torch.cat([torch.full_like(p, p.requires_grad, dtype=torch.bool).reshape(-1) for p in named.values()])
        self.frozen = None if needed.all() else ~needed
        self._state: Mapping[str, Tensor] = module.state_dict()

    @torch.no_grad()
    def load(self, arrays: ArrayRecord) -> None:
        """Set parameters and buffers from named arrays.

        Raises
        ------
        ValueError
            If names or shapes differ from the model's.
        """
        if set(arrays) != set(self._state):
            odd = sorted(set(arrays) ^ set(self._state))
            raise ValueError(f"received arrays must match the model; {odd[0]} is in only one of them")
        for name, tensor in self._state.items():
            values = as_ndarray(arrays[name])
            if values.shape != tuple(tensor.shape):
                raise ValueError(f"array {name} must have shape {tuple(tensor.shape)}; got {values.shape}")
            tensor.copy_(torch.from_numpy(np.array(values)))

    def arrays(self) -> ArrayRecord:
        """Return parameters and buffers as named arrays."""
        return ArrayRecord({name: Array(tensor.cpu().numpy()) for name, tensor in self._state.items()})

    def flatten(self, arrays: ArrayRecord) -> Tensor:
        """Concatenate arrays named like the parameters into one vector."""
        flat = torch.empty_like(self.parameters)
        for name, (piece, _) in self._slices.items():
            flat[piece] = torch.from_numpy(np.array(as_ndarray(arrays[name]))).reshape(-1).to(flat.device)
        return flat

    def unflatten(self, flat: Tensor) -> ArrayRecord:
        """Split one vector into arrays named like the parameters."""
        values = flat.cpu()
        return ArrayRecord({name: Array(values[p].view(s).numpy()) for name, (p, s) in self._slices.items()})
