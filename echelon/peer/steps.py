"""What happens within the steps of a script's own optimiser: forces are added to the gradients, steps are counted."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from echelon.core.strategy import Strategy
from echelon.peer.model import flatten, pieces
from echelon.peer.rounds import Instructions


class Steps:
    """The steps of one worker in a round, as its optimiser takes them.

    Parameters
    ----------
    strategy : Strategy
        Of the run.
    optimizer : torch.optim.Optimizer or None
        Of the script.
    parameters : sequence of torch.nn.Parameter
        Of the model that is mixed.
    rank : int
        The worker.

    Raises
    ------
    ValueError
        If the strategy needs SGD and the optimiser is none, or needs one without momentum of its own.
    """

    def __init__(
        self,
        strategy: Strategy,
        optimizer: torch.optim.Optimizer | None,
        parameters: Sequence[nn.Parameter],
        rank: int,
    ) -> None:
        if strategy.remembers:
            raise ValueError("work.estimator must not be memory with Peer, whose steps are the loop's own; got memory")
        if strategy.host_momentum:
            _require_plain_sgd(optimizer)
        if strategy.correction == "tracking":
            _require_sgd(optimizer, "must be torch.optim.SGD for strategy.correction=tracking")
        self._optimizer, self._parameters, self._rank = optimizer, parameters, rank
        self._begun: Instructions | None = None
        self._count, self._length = 0, 0.0
        self._sum: Tensor | None = None
        if optimizer is not None:
            optimizer.register_step_pre_hook(lambda *arguments: self._before_step())

    def begin(self, begun: Instructions) -> None:
        """Begin a round.

        Raises
        ------
        ValueError
            If the strategy acts in the steps of an optimiser, and there is none.
        """
        if begun.anchors and self._optimizer is None:
            raise ValueError("optimizer must be given with strategy.force=in_step, which acts in its steps; got None")
        self._begun, self._count, self._length, self._sum = begun, 0, 0.0, None

    def end(self, samples: int) -> tuple[float | None, Tensor | None]:
        """End the round, in which the worker has processed ``samples``.

        Returns
        -------
        length : float or None
            F lr, that of the steps taken scaled to the target; None without steps.
        gradient : tensor, shape (P,), or None
            Mean of the corrected gradients, where the strategy corrects them.
        """
        begun, self._begun = self._begun, None
        if begun is None or not self._count or not samples:
            return None, None
        length = self._length * float(begun.target_samples[self._rank]) / samples
        return length, None if self._sum is None else self._sum / self._count

    def _before_step(self) -> None:
        if self._begun is None or self._optimizer is None:
            return
        self._count += 1
        self._length += float(self._optimizer.param_groups[0]["lr"])
        if self._begun.anchors:
            self._pull(self._begun.anchors[self._rank], float(self._begun.anchor_strengths[self._rank]))
        if self._begun.corrections:
            correction = self._begun.corrections[self._rank]
            self._add(correction)
            gradient = flatten([p.grad for p in self._parameters if p.grad is not None], correction.device)
            self._sum = gradient if self._sum is None else self._sum.add_(gradient)
        if self._begun.directions:
            self._add(self._begun.directions[self._rank])

    def _pull(self, anchor: Tensor, strength: float) -> None:
        for parameter, target in zip(self._parameters, pieces(anchor, self._parameters), strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - target.to(parameter.device), alpha=strength)

    def _add(self, vector: Tensor) -> None:
        for parameter, piece in zip(self._parameters, pieces(vector, self._parameters), strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(piece.to(parameter.device))


def _require_sgd(optimizer: torch.optim.Optimizer | None, what: str) -> torch.optim.Optimizer:
    if not isinstance(optimizer, torch.optim.SGD):
        raise ValueError(f"optimizer {what}; got {None if optimizer is None else type(optimizer).__name__}")
    return optimizer


def _require_plain_sgd(optimizer: torch.optim.Optimizer | None) -> None:
    """Check that the momentum is not applied twice, and that all parameters have one learning rate."""
    what = "must be torch.optim.SGD with momentum=0 and one learning rate for strategy.momentum_mixing=quasi_global"
    optimizer = _require_sgd(optimizer, what)
    for name in ("momentum", "lr"):
        values = sorted({float(group[name]) for group in optimizer.param_groups})
        if len(values) > 1 or (name == "momentum" and values[0]):
            raise ValueError(f"optimizer {what}, which adds that of strategy.sgd; got {name}={values}")
