"""What a worker minimises and reports: any function of the model and a mini-batch."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from echelon.protocol.messages import NUM_EXAMPLES

from .data import Batch, to_device
from .errors import UserCodeError, naming

Loss = Callable[[nn.Module, Batch], Tensor]
Metrics = Callable[[nn.Module, Batch], Mapping[str, Any]]
Reduction = Literal["sum", "mean"]
Precision = Literal["fp32", "bf16"]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of ``model(inputs)`` summed over a mini-batch (inputs, labels).

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits, shape (b, C, ...).
    batch : tuple
        Inputs; labels as class numbers (b, ...) of any integer type, or as probabilities (b, C, ...).

    Raises
    ------
    UserCodeError
        If the mini-batch is not such a pair.
    """
    inputs, labels = _pair(batch)
    return functional.cross_entropy(model(inputs), _as_targets(labels), reduction="sum")


def cross_entropy_and_accuracy(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return ``loss`` and ``accuracy`` of a mini-batch (inputs, labels), summed over its samples.

    The accuracy of a sample is the share of its labels (one, or one per position) that have the largest logit.
    """
    inputs, labels = _pair(batch)
    logits, labels = model(inputs), _as_targets(labels)
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    classes = labels.argmax(1) if labels.is_floating_point() else labels
    correct = logits.argmax(1) == classes
    return {"loss": loss, "accuracy": correct.reshape(len(correct), -1).double().mean(1).sum()}


@dataclass(frozen=True)
class Objective:
    """A loss, the metrics of an evaluation, and the precision in which both are computed.

    Parameters
    ----------
    loss : callable, optional
        (module, mini-batch) -> loss, one number; by default :func:`cross_entropy`.
    metrics : callable, optional
        (module, mini-batch) -> numbers by name. ``loss`` is added if it is not among them; by default it is the only
        one or, with the default loss, beside ``accuracy``.
    reduction : {"sum", "mean"}
        What both return: sums over the samples of the mini-batch, or their means.
    precision : {"fp32", "bf16"}
        With ``bf16``, torch's autocast computes in bfloat16 what tolerates it; parameters and steps stay float32.

    Raises
    ------
    ValueError
        For an unknown word, or the mean of the default loss.
    """

    loss: Loss | None = None
    metrics: Metrics | None = None
    reduction: Reduction = "sum"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be sum or mean; got {self.reduction}")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16; got {self.precision}")
        if self.loss is None and self.reduction == "mean":
            raise ValueError("reduction=mean needs a loss: the default cross-entropy is a sum")

    def total(self, model: nn.Module, batch: Batch, samples: int, device: str) -> Tensor:
        """Return the loss summed over a mini-batch of ``samples``, with its gradient.

        Raises
        ------
        ValueError
            If the loss is not one number that depends on the parameters.
        """
        found = self.value(model, batch, samples, device)
        if not found.requires_grad:
            raise _no_loss(found)
        return found

    def value(self, model: nn.Module, batch: Batch, samples: int, device: str) -> Tensor:
        """Return the loss summed over a mini-batch; also within `vmap`, which hides whether it has a gradient.

        Raises
        ------
        ValueError
            If the loss is not one number.
        """
        found = self._loss(model, to_device(batch, device), device)
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise _no_loss(found)
        return found * samples if self.reduction == "mean" else found

    def measure(self, model: nn.Module, batch: Batch, samples: int, device: str) -> dict[str, float]:
        """Return the metrics, ``loss`` among them, summed over a mini-batch of ``samples``.

        Raises
        ------
        ValueError
            If a metric is not one number.
        """
        there = to_device(batch, device)
        found = self._metrics(model, there, device)
        if "loss" not in found:
            found = {"loss": self._loss(model, there, device), **found}
        weight = samples if self.reduction == "mean" else 1
        return {name: weight * _number(name, value) for name, value in found.items()}

    def _loss(self, model: nn.Module, batch: Batch, device: str) -> Any:
        what = "the default loss, cross_entropy(model(inputs), labels)," if self.loss is None else "loss(model, batch)"
        with naming(what, batch), self._autocast(device):
            return (self.loss or cross_entropy)(model, batch)

    def _metrics(self, model: nn.Module, batch: Batch, device: str) -> dict[str, Any]:
        metrics = self.metrics or (cross_entropy_and_accuracy if self.loss is None else None)
        if metrics is None:
            return {}
        with naming("metrics(model, batch)", batch), self._autocast(device):
            found = metrics(model, batch)
        if not isinstance(found, Mapping):
            raise UserCodeError(f"metrics must return numbers by name, as in {{'accuracy': 0.5}}; got {_said(found)}")
        if NUM_EXAMPLES in found:
            raise UserCodeError(f"metrics must not return {NUM_EXAMPLES}, which is the number of the worker's samples")
        return dict(found)

    def _autocast(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device.split(":")[0], torch.bfloat16) if self.precision == "bf16" else nullcontext()


def _pair(batch: Batch) -> tuple[Any, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        kind = f"a dict with {', '.join(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
        raise UserCodeError(
            f"load_data gives mini-batches of another kind than (inputs, labels): {kind}. Pass make_client_app a "
            "loss=..., a function of (model, batch)"
        )
    return batch[0], batch[1]


def _as_targets(labels: Tensor) -> Tensor:
    return labels if labels.is_floating_point() else labels.long()


def _no_loss(found: object) -> UserCodeError:
    return UserCodeError(f"loss must return one number that depends on the model's parameters; got {_said(found)}")


def _said(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}" + ("" if value.requires_grad else " without a gradient")
    return f"a {type(value).__name__}"


def _number(name: str, value: Any) -> float:
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise UserCodeError(f"metrics must return one number for {name}; got {_said(value)}") from None
