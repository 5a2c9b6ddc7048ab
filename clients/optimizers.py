"""The optimiser of a worker's steps: torch's, on all parameters as one vector."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from echelon.protocol.messages import TrainInstructions

from .errors import UserCodeError, naming
from .forces import Forces
from .model import FlatModel

Factory = Callable[[list[Tensor]], torch.optim.Optimizer]
Keeper = Literal["server", "worker", "reset"]
State = dict[str, Tensor]

MOMENTUM_BUFFER = "momentum_buffer"

_NAMED: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


@dataclass(frozen=True)
class Optimizer:
    """Which optimiser a worker uses, and who keeps its state between rounds.

    Parameters
    ----------
    choice : str or callable
        A name (sgd, adamw, adam, rmsprop, adagrad), with the run's learning rate, weight decay and, for sgd and
        rmsprop, momentum; or a function of a list of parameters that returns a torch optimiser. That one keeps its own
        hyper-parameters; the run's schedule scales its learning rate.
    state : {"server", "worker", "reset"}
        ``server``: travels with the row, so that a worker that restarts and a run that is resumed go on exactly.
        ``worker``: stays in the worker's process. ``reset``: starts anew in every round.
    max_grad_norm : float, optional
        Upper bound on the norm of a step's gradient, which is shortened to it.

    Raises
    ------
    ValueError
        For an unknown name or word, or a bound that is not above 0.

    Examples
    --------
    >>> import torch
    >>> Optimizer("adamw").slots
    (('exp_avg', 'exp_avg_sq'), ('step',))
    >>> Optimizer(lambda parameters: torch.optim.SGD(parameters, lr=0.1, nesterov=True, momentum=0.9)).slots
    (('momentum_buffer',), ())
    """

    choice: str | Factory = "sgd"
    state: Keeper = "server"
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.choice, str) and self.choice not in ("sgd", *_NAMED):
            raise ValueError(
                f"optimizer.name must be one of sgd, {', '.join(_NAMED)}, or a function; got {self.choice}"
            )
        if self.state not in ("server", "worker", "reset"):
            raise ValueError(f"optimizer.state must be server, worker or reset; got {self.state}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"optimizer.max_grad_norm must be above 0; got {self.max_grad_norm}")

    @property
    def is_sgd(self) -> bool:
        """Whether it is the SGD whose momentum strategies know and mix."""
        return self.choice == "sgd"

    @cached_property
    def name(self) -> str:
        """The name, or that of the class of what the function returns."""
        if isinstance(self.choice, str):
            return self.choice
        return type(self._make(torch.zeros(1, requires_grad=True), TrainInstructions())).__name__

    @cached_property
    def slots(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the state: vectors as long as the parameters, and single numbers.

        Raises
        ------
        ValueError
            If the optimiser's step needs more than the gradient.
        """
        probe = torch.zeros(2, requires_grad=True)
        probe.grad = torch.zeros(2)
        made = self._make(probe, TrainInstructions(momentum=0.5))
        try:
            made.step()
        except TypeError as error:
            raise ValueError(
                f"optimizer: a step must need the gradient alone; {type(made).__name__}: {error}"
            ) from None
        sizes = {name: torch.as_tensor(value).numel() for name, value in made.state[probe].items() if value is not None}
        return tuple(n for n, size in sizes.items() if size == 2), tuple(n for n, size in sizes.items() if size == 1)

    def prepare(self, model: FlatModel, instructions: TrainInstructions, saved: Mapping[str, Tensor]) -> "Steps":
        """Return the steps of a round, which continue from the state ``saved``; none of it starts anew."""
        flat = model.parameters.requires_grad_(False)
        parameter = torch.nn.Parameter(flat)
        parameter.grad = model.gradients
        made = self._make(parameter, instructions)
        made.state[parameter].update(saved)
        decay = instructions.weight_decay if self.is_sgd else 0.0
        return Steps(made, parameter, decay, self.max_grad_norm)

    def _make(self, parameter: Tensor, instructions: TrainInstructions) -> "torch.optim.Optimizer | PlainSGD":
        if not isinstance(self.choice, str):
            with naming("optimizer(parameters)"):
                made: Any = self.choice([parameter])
            if not isinstance(made, torch.optim.Optimizer):
                raise UserCodeError(f"optimizer must return a torch.optim.Optimizer; got {type(made).__name__}")
            for group in made.param_groups:
                group["lr"] = group["lr"] * instructions.schedule
            return made
        if self.is_sgd:  # its L2 penalty enters before the corrective force, see Steps
            return PlainSGD(parameter, instructions.learning_rate, instructions.momentum)
        options: dict[str, Any] = {"lr": instructions.learning_rate, "weight_decay": instructions.weight_decay}
        if self.choice == "rmsprop":
            options["momentum"] = instructions.momentum
        return _NAMED[self.choice]([parameter], **options)


class PlainSGD:
    """The steps of ``torch.optim.SGD`` on one parameter, bit for bit.

    The first optimiser of torch that is made loads torch's compiler, which takes 1.2 CPU-s, and each step takes longer
    than this arithmetic does for a small model.

    Parameters
    ----------
    parameter : tensor
        With its gradient.
    learning_rate, momentum : float
        As in torch; without dampening and Nesterov's look ahead.
    """

    def __init__(self, parameter: Tensor, learning_rate: float, momentum: float) -> None:
        self._parameter, self._learning_rate, self._momentum = parameter, learning_rate, momentum
        self.state: dict[Tensor, State] = {parameter: {}}

    @torch.no_grad()
    def step(self) -> None:
        """Take a step along the gradient, or along the momentum that it goes into."""
        direction = self._parameter.grad
        assert direction is not None
        if self._momentum:
            kept = self.state[self._parameter]
            if MOMENTUM_BUFFER in kept:
                kept[MOMENTUM_BUFFER].mul_(self._momentum).add_(direction)
            else:
                kept[MOMENTUM_BUFFER] = direction.clone()
            direction = kept[MOMENTUM_BUFFER]
        self._parameter.add_(direction, alpha=-self._learning_rate)


class Steps:
    """The steps of one round.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Of one parameter.
    parameter : tensor, shape (P,)
        All of the model's.
    decay : float
        L2 penalty that is added to the gradient.
    max_grad_norm : float, optional
        Upper bound on the norm of a gradient.
    """

    def __init__(
        self,
        optimizer: "torch.optim.Optimizer | PlainSGD",
        parameter: Tensor,
        decay: float,
        max_grad_norm: float | None,
    ) -> None:
        self._optimizer, self._parameter = optimizer, parameter
        self._decay, self._max_grad_norm = decay, max_grad_norm
        self._finished: Tensor | None = None
        self._batches = 0.0

    @property
    def state(self) -> State:
        """The optimiser's state."""
        state = self._optimizer.state[self._parameter]
        return {name: torch.as_tensor(value) for name, value in state.items() if value is not None}

    @torch.no_grad()
    def take(self, batch_size: int, samples: int, forces: Forces) -> None:
        """Take a step by the gradient, a sum over ``samples`` of a batch, and the forces on it.

        With a memory, ``samples`` may be 0; where steps are filled in without one, only after a step with samples.
        """
        direction = self._parameter.grad
        assert direction is not None
        direction.div_(batch_size)
        if self._max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_([self._parameter], self._max_grad_norm)
        share = samples / batch_size
        if forces.remembers:
            self._fill_in(direction, share, forces.memory)
        if self._decay:  # with a correction, which makes up for it, of a partial step as much as of the gradient
            direction.add_(self._parameter, alpha=self._decay * (1.0 if forces.correction is None else share))
        forces.add_to(direction, self._parameter, share)
        self._optimizer.step()

    def _fill_in(self, direction: Tensor, share: float, memory: Tensor | None) -> None:
        """Fill in, in place, the gradient of a step with a finished share of its batch."""
        if memory is None:
            self._finished = direction.clone() if self._finished is None else self._finished.add_(direction)
            self._batches += share
            memory = self._finished / self._batches
        if share < 1.0:
            direction.add_(memory, alpha=1.0 - share)
