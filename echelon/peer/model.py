"""A user's own model and optimiser as vectors: what is mixed of them, and back."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

# Numbers of steps, as torch's optimisers name them: the same at every worker, and no vectors over the parameters.
_COUNTS = ("step",)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return a model's parameters with a gradient, each once.

    Raises
    ------
    ValueError
        If there is none, or one is not float32.
    """
    found = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not found:
        raise ValueError("the model has no trainable parameter, so there is nothing to mix")
    for name, parameter in found:
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"trainable parameters must be float32; {name} is {parameter.dtype}: use model.float(), or freeze it "
                "with requires_grad_(False)"
            )
    return [parameter for _, parameter in found]


def flatten(tensors: Iterable[Tensor], device: torch.device, out: Tensor | None = None) -> Tensor:
    """Return a copy of tensors as one float32 vector on a device; ``out`` is such a vector to use."""
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    if out is not None and flat[0].device == device:
        return torch.cat(flat, out=out)
    copied = torch.cat(flat).to(device, torch.float32)
    return copied if out is None else out.copy_(copied)


@torch.no_grad()
def spread(vector: Tensor, tensors: Sequence[Tensor]) -> None:
    """Set tensors, in place, to the values of one vector."""
    for tensor, piece in zip(tensors, pieces(vector, tensors), strict=True):
        tensor.copy_(piece)


def pieces(vector: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return a vector as views in the shapes of tensors."""
    parts = torch.split(vector, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def state_vectors(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> list[list[Tensor]]:
    """Return an optimiser's vectors over the parameters (momentum, say), each as its tensors by parameter.

    Empty while a parameter has none, as before the first step.
    """
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    names = sorted({name for state in states for name, value in state.items() if isinstance(value, Tensor)})
    names = [name for name in names if name not in _COUNTS]
    complete = all(isinstance(state.get(name), Tensor) for state in states for name in names)
    return [[state[name] for state in states] for name in names] if complete else []
