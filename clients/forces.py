"""What the server adds to the gradients of a worker's steps."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Forces:
    """Vectors over the parameters that change the direction of every step of a round.

    Attributes
    ----------
    anchor : tensor, shape (P,), optional
        Target of the corrective force, ``anchor_strength * (x - anchor)`` (AL-DSGD with ``force=in_step``).
    anchor_strength : float
        At least 0.
    direction : tensor, shape (P,), optional
        Added as it is (mu m of ``momentum_mixing=quasi_global``).
    correction : tensor, shape (P,), optional
        Added to the mean gradient of the samples (``correction=tracking``): to a partial step by the finished share of
        its batch, as its gradient and, with a correction, weight decay enter.
    memory : tensor, shape (P,), optional
        Takes the place of what is missing of a step (``estimator=memory``).
    remembers : bool
        Whether steps are filled in: without ``memory`` by the mean of the round's gradients so far.
    """

    anchor: Tensor | None = None
    anchor_strength: float = 0.0
    direction: Tensor | None = None
    correction: Tensor | None = None
    memory: Tensor | None = None
    remembers: bool = False

    def add_to(self, gradient: Tensor, parameters: Tensor, share: float) -> None:
        """Add the forces at ``parameters`` to the gradient, in place, of a step with a finished share of its batch."""
        if self.anchor is not None:
            gradient.add_(parameters - self.anchor, alpha=self.anchor_strength)
        if self.direction is not None:
            gradient.add_(self.direction)
        if self.correction is not None:
            gradient.add_(self.correction, alpha=share)
