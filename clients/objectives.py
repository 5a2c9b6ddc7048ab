"""What a worker minimises and reports: any function of the model and a mini-batch."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from .data import Batch, DataError

Loss = Callable[[nn.Module, Batch], Tensor]
Metrics = Callable[[nn.Module, Batch], Mapping[str, Any]]
Reduction = Literal["sum", "mean"]


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
    DataError
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


def _pair(batch: Batch) -> tuple[Any, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        kind = f"a dict with {', '.join(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
        raise DataError(
            f"load_data gives mini-batches of another kind than (inputs, labels): {kind}. Pass make_client_app a "
            "loss=..., a function of (model, batch)"
        )
    return batch[0], batch[1]


def _as_targets(labels: Tensor) -> Tensor:
    return labels if labels.is_floating_point() else labels.long()
