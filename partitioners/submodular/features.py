"""Features by which samples are compared, where raw pixels will not do."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..base import check_features

if TYPE_CHECKING:
    import torch

_FITTED = 10_000  # samples on which the components are fitted
_ROWS = 4096  # samples that are projected at a time


def pca(features: npt.ArrayLike, components: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Project features on their principal components.

    Parameters
    ----------
    features : (n, ...) array
    components : int
        Number of components, at least 1 and at most min(n, d).
    rng : numpy.random.Generator
        Draws the 10,000 samples, if there are more, on which the components are fitted.

    Returns
    -------
    (n, components) float32 array

    Raises
    ------
    ValueError
        If features are not finite, or there are not so many components.
    """
    from sklearn.decomposition import PCA

    rows = check_features(features, len(np.asarray(features)))
    fitted = rows if len(rows) <= _FITTED else rows[np.sort(rng.choice(len(rows), _FITTED, replace=False))]
    if not 1 <= components <= min(fitted.shape):
        raise ValueError(f"partitioner.components must lie in [1, {min(fitted.shape)}]; got {components}")
    model = PCA(components, svd_solver="randomized", random_state=int(rng.integers(1 << 31)))
    model.fit(np.asarray(fitted, dtype=np.float32))
    pieces = [model.transform(np.asarray(rows[i : i + _ROWS], dtype=np.float32)) for i in range(0, len(rows), _ROWS)]
    return np.concatenate(pieces).astype(np.float32)


def penultimate(model: "torch.nn.Module", inputs: "torch.Tensor", batch_size: int = 256) -> npt.NDArray[np.float32]:
    """Return what the last linear layer of a classifier is given.

    Parameters
    ----------
    model : torch.nn.Module
        Called in evaluation mode on the device where its parameters are; its modes are then restored.
    inputs : (n, ...) tensor
        As the model expects them.
    batch_size : int

    Returns
    -------
    (n, d) float32 array

    Raises
    ------
    ValueError
        If the model has no linear layer.
    """
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    if not layers:
        raise ValueError(f"partitioner.features needs a model with a linear layer; {type(model).__name__} has none")
    caught: list[torch.Tensor] = []
    hook = layers[-1].register_forward_pre_hook(
        lambda _, given: caught.append(given[0].detach().flatten(1).float().cpu())
    )
    device, training = layers[-1].weight.device, {layer: layer.training for layer in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            for batch in torch.split(inputs, batch_size):
                model(batch.to(device))
    finally:
        hook.remove()
        for layer, was_training in training.items():
            layer.training = was_training
    return np.asarray(torch.cat(caught).numpy(), dtype=np.float32)
