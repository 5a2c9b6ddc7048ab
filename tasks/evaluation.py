"""Loss and accuracy of a model on a split."""

import torch
from torch import nn
from torch.nn import functional

from .base import Split


def evaluate(
    model: nn.Module, split: Split, batch_size: int = 500, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Return the mean cross-entropy (nats) and the accuracy in [0, 1] over a whole split.

    Parameters
    ----------
    model : nn.Module
        On `device`; evaluated in evaluation mode, after which its previous mode is restored.
    split : Split
        At least one sample.
    batch_size : int
        Samples per forward pass; the results do not depend on it beyond rounding.
    device : torch.device or str
        Device of the model.
    """
    training = model.training
    model.eval()
    loss, correct = 0.0, 0
    try:
        with torch.inference_mode():
            for indices in torch.split(torch.arange(len(split)), batch_size):
                x, y = (part.to(device) for part in split.batch(indices))
                logits = model(x)
                loss += functional.cross_entropy(logits, y, reduction="sum").item()
                correct += int((logits.argmax(1) == y).sum())
    finally:
        model.train(training)
    return loss / len(split), correct / len(split)
