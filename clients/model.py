"""A torch model with all trainable parameters in one vector and their gradients in another."""

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from echelon.core.layout import ModelParts, digest
from echelon.protocol.messages import as_array, as_ndarray
from echelon.protocol.rows import is_row

from .errors import UserCodeError, naming
from .rows import RowForm, as_sent


class FlatModel:
    """Wrap a module; its trainable parameters become views of ``parameters``, their gradients views of ``gradients``.

    Parameters with ``requires_grad=False`` stay as they are, in any type: they are never sent unless a server sends
    them first, as Flower's FedAvg does.

    Parameters
    ----------
    module : torch.nn.Module
        Its trainable parameters must be float32.
    device : str
        Compute device.

    Attributes
    ----------
    parameters, gradients : tensor, shape (P,)
        All trainable parameters, each storage once, and their gradients.

    Raises
    ------
    UserCodeError
        If there is no trainable parameter, or one is not float32 or has no shape yet.
    """

    def __init__(self, module: nn.Module, device: str = "cpu") -> None:
        with naming(f"moving build_model's model to {device}"):
            self.module = module.to(device)
        self.device = device
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        for name, parameter in trainable.items():
            if isinstance(parameter, nn.UninitializedParameter):
                raise UserCodeError(
                    f"build_model: {name} has no shape yet: pass a mini-batch through a model with lazy modules before "
                    "returning it"
                )
            if parameter.dtype != torch.float32:
                raise UserCodeError(
                    f"build_model: trainable parameters must be float32; {name} is {parameter.dtype}: return "
                    "model.float(), or freeze it with requires_grad_(False)"
                )
        if not trainable:
            raise UserCodeError("build_model: the model has no trainable parameter, so there is nothing to train")
        size = sum(p.numel() for p in trainable.values())
        self.parameters = torch.empty(size, device=device)
        self.gradients = torch.zeros(size, device=device)
        self._slices: dict[str, tuple[slice, torch.Size]] = {}
        self._trainable = trainable
        start = 0
        for name, parameter in trainable.items():
            piece = slice(start, start + parameter.numel())
            self._slices[name] = (piece, parameter.shape)
            self.parameters[piece] = parameter.detach().reshape(-1)
            parameter.data = self.parameters[piece].view(parameter.shape)
            parameter.grad = self.gradients[piece].view(parameter.shape)
            start = piece.stop
        self._pointers = {
            name: (p.data_ptr(), g.data_ptr()) for name, p in trainable.items() if (g := p.grad) is not None
        }
        self._initial_buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
        self._names = self.parts.trainable + self.parts.buffers
        self._form: RowForm | None = None

    @cached_property
    def parts(self) -> ModelParts:
        """What the model is made of: trainable parameters, buffers that are saved, and further names of either."""
        by_storage: dict[int, str] = {}
        tied: dict[str, str] = {}
        buffers: list[str] = []
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        frozen: list[str] = []
        for name, value in self._state().items():
            first = by_storage.setdefault(id(value), name)
            if first != name:
                tied[name] = first
            elif name not in parameters:
                buffers.append(name)
            elif name not in self._slices:
                frozen.append(name)
        found = digest((name, _bytes(parameters[name])) for name in frozen) if frozen else ""
        return ModelParts(tuple(self._slices), tuple(buffers), tied, found)

    @torch.no_grad()
    def load(self, arrays: ArrayRecord) -> None:
        """Set parameters and buffers from a row or named arrays; buffers not among them get their first values.

        Raises
        ------
        ValueError
            If a trainable parameter is missing, an array is not the model's, or a shape differs.
        """
        if is_row(arrays):
            self._load_row(arrays)
            return
        self._form = None
        self.check_names(arrays)
        buffers = dict(self.module.named_buffers(remove_duplicate=False))
        self._reset_buffers(set(arrays))
        state = self._state()
        for name, array in arrays.items():
            values, tensor = as_ndarray(array), state[name]
            if values.shape != tuple(tensor.shape):
                raise ValueError(f"array {name} must have shape {tuple(tensor.shape)}; got {values.shape}")
            received = torch.from_numpy(np.array(values))
            if name in buffers:
                self._set_buffer(name, received.to(self.device, self._initial_buffers[name].dtype))
            else:
                tensor.copy_(received)
        self._names = tuple(arrays)

    def _load_row(self, arrays: ArrayRecord) -> None:
        if self._form is None or self._form.arrays != tuple(arrays):
            form = RowForm(arrays, {name: piece for name, (piece, _) in self._slices.items()}, self._initial_buffers)
            self.check_names(form.names)
            self._form = form
        values = self._form.parameters(arrays)
        if self.parameters.is_cpu:
            np.copyto(self.parameters.numpy(), values)
        else:
            self.parameters.copy_(torch.from_numpy(np.array(values)))
        self._reset_buffers(self._form.names)
        for name, value in self._form.buffers(arrays).items():
            received = torch.from_numpy(np.array(value))
            self._set_buffer(name, received.to(self.device, self._initial_buffers[name].dtype))

    def check_names(self, names: Iterable[str]) -> None:
        """Raise ValueError unless the names are the model's and hold all that is trained."""
        known, given = set(self._state()), set(names)
        odd = sorted(given - known) or sorted(set(self._slices) - given)
        if odd:
            raise ValueError(f"received arrays must match the model; {odd[0]} is in only one of them")

    def arrays(self) -> ArrayRecord:
        """Return the arrays of the names that were loaded last; before, trainable parameters and buffers."""
        self._check_views()
        if self._form is not None:
            buffers = self._state() if self._initial_buffers else {}
            return self._form.model(self.parameters.cpu().numpy(), buffers)
        state = self._state()
        return ArrayRecord({name: as_array(as_sent(state[name])) for name in self._names})

    def buffers(self, leave_out: Iterable[str]) -> ArrayRecord:
        """Return the buffers that are saved, but for some."""
        state = self._state()
        names = [name for name in self.parts.buffers if name not in set(leave_out)]
        return ArrayRecord({name: as_array(as_sent(state[name])) for name in names})

    def flatten(self, arrays: ArrayRecord) -> Tensor:
        """Return a vector over the trainable parameters that travels as the model does, by their names or as one."""
        if self._form is not None:
            return torch.from_numpy(np.array(self._form.from_vector(arrays))).to(self.device)
        flat = torch.empty_like(self.parameters)
        for name, (piece, _) in self._slices.items():
            flat[piece] = torch.from_numpy(np.array(as_ndarray(arrays[name]))).reshape(-1).to(flat.device)
        return flat

    def named(self, row: Tensor) -> dict[str, Tensor]:
        """Return the parts of a vector over the trainable parameters, as views of it, by their names."""
        pieces = torch.split(row, [piece.stop - piece.start for piece, _ in self._slices.values()])
        return {name: p.view(s) for (name, (_, s)), p in zip(self._slices.items(), pieces, strict=True)}

    def unflatten(self, flat: Tensor) -> ArrayRecord:
        """Return what is sent of such a vector."""
        values = flat.cpu().numpy()
        if self._form is not None:
            return self._form.to_vector(values)
        return ArrayRecord({name: as_array(values[p].reshape(s)) for name, (p, s) in self._slices.items()})

    def _state(self) -> Mapping[str, Tensor]:
        """Return what is saved of the model as it is now: a buffer may have been assigned anew."""
        return {n: v for n, v in self.module.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}

    def _reset_buffers(self, but_for: set[str]) -> None:
        for name in self._initial_buffers.keys() - but_for:
            self._set_buffer(name, self._initial_buffers[name].clone())

    def _set_buffer(self, name: str, value: Tensor) -> None:
        """Set a buffer to ``value`` in place where that is possible, for whatever else refers to it."""
        path, _, leaf = name.rpartition(".")
        owner = self.module.get_submodule(path)
        now = getattr(owner, leaf)
        if now is not None and now.shape == value.shape and now.is_contiguous() and not now.requires_grad:
            now.copy_(value)
        else:
            setattr(owner, leaf, value)

    def _check_views(self) -> None:
        """Check that training has left parameters and gradients where they are."""
        for name, (values, gradients) in self._pointers.items():
            parameter = self._trainable[name]
            gradient = parameter.grad
            moved = parameter.data_ptr() != values
            if moved or gradient is None or gradient.data_ptr() != gradients:
                raise ValueError(
                    f"the model or the loss has replaced {'the values' if moved else 'the gradient'} of {name}: both "
                    "must be changed in place, and zero_grad and flatten_parameters must not be called"
                )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
