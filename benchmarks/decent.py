"""A round of decent-dp (Wang et al., ICLR 2025), another library for training with neighbours on torch.distributed.

It is no dependency of this repository: ``.venv/bin/uv pip install -r benchmarks/requirements.txt`` installs it.
"""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn


def is_installed() -> bool:
    """Return whether the package is there."""
    return find_spec("decent_dp") is not None


def can_run(topology: str, workers: int) -> bool:
    """Return whether its graphs exist for so many workers: rings of pairs, or pairs at distances 1, 2, 4, ..."""
    return workers % 2 == 0 if topology == "ring" else workers & (workers - 1) == 0


def round_of(topology: str, model: nn.Module) -> Callable[[], None]:
    """Return a round whose training does nothing; every process must make it.

    The communication that a backward pass starts would end in the next one. Here each round waits for its own: there
    is no computing to hide it behind, and it must not run into what is measured next.
    """
    importlib.import_module("loguru").logger.disable("decent_dp")
    ddp = importlib.import_module("decent_dp.ddp")
    made = ddp.DecentralizedDataParallel(_Untrained(model), optim_fn=_no_optimizer, topology=topology)

    def step() -> None:
        made().backward()
        for operation in made._comm_ops:
            if operation is not None:
                operation.wait()

    return step


class _Untrained(nn.Module):
    """A model whose passes cost nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        loss: Tensor = _Nothing.apply(*self.model.parameters())
        return loss


class _Nothing(torch.autograd.Function):
    """Gradients of any content: memory that nobody reads."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.shapes = [parameter.shape for parameter in parameters]
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty(shape) for shape in ctx.shapes)


class _NoOptimizer(torch.optim.Optimizer):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change nothing."""


def _no_optimizer(named: list[tuple[str, Tensor]]) -> torch.optim.Optimizer:
    return _NoOptimizer([parameter for _, parameter in named], {})
