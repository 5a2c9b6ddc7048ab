"""Features to compare samples by, where raw pixels are not enough: principal components, or those of a model."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..base import centred, check_features

if TYPE_CHECKING:
    import torch

_FITTED = 10_000  # samples on which the components are fitted
_ROWS = 4096  # samples that are projected at a time


def pca(features: npt.ArrayLike, components: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Project features onto their principal components.

    Parameters
    ----------
    features : (n, ...) array
        One row of real numbers per sample.
    components : int
        Number of components, in [1, min(n, d)].
    rng : numpy.random.Generator
        Draws the 10,000 samples on which the components are fitted, if there are more, and the solver's seed.

    Returns
    -------
    (n, components) float32 array

    Raises
    ------
    ValueError
        If features are not finite, or `components` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.partitioners.submodular.features import pca
    >>> images = np.random.default_rng(0).normal(size=(100, 8, 8))
    >>> pca(images, 10, np.random.default_rng(0)).shape
    (100, 10)
    """
    from sklearn.decomposition import PCA

    rows = check_features(features, len(np.asarray(features)))
    fitted = rows if len(rows) <= _FITTED else rows[np.sort(rng.choice(len(rows), _FITTED, replace=False))]
    if not 1 <= components <= min(fitted.shape):
        raise ValueError(f"partitioner.components must lie in [1, {min(fitted.shape)}]; got {components}")
    model = PCA(components, svd_solver="randomized", random_state=int(rng.integers(1 << 31)))
    centre = fitted.mean(axis=0, dtype=np.float64)
    model.fit(centred(fitted, centre))
    pieces = [model.transform(centred(rows[i : i + _ROWS], centre)) for i in range(0, len(rows), _ROWS)]
    return np.concatenate(pieces).astype(np.float32)


def penultimate(model: "torch.nn.Module", inputs: "torch.Tensor", batch_size: int = 256) -> npt.NDArray[np.float32]:
    """Return the inputs of the last linear layer of a classifier.

    Parameters
    ----------
    model : torch.nn.Module
        Called in evaluation mode on the device of its parameters; its modes are restored afterwards.
    inputs : (n, ...) tensor
        In the form the model expects.
    batch_size : int
        Samples per call of the model.

    Returns
    -------
    (n, d) float32 array

    Raises
    ------
    ValueError
        If the model has no linear layer.

    Examples
    --------
    >>> import torch
    >>> from echelon.partitioners.submodular.features import penultimate
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> penultimate(model, torch.zeros(5, 4)).shape
    (5, 3)
    """
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    if not layers:
        raise ValueError(f"partitioner.features needs a model with a linear layer; {type(model).__name__} has none")
    captured: list[torch.Tensor] = []
    hook = layers[-1].register_forward_pre_hook(
        lambda _, arguments: captured.append(arguments[0].detach().flatten(1).float().cpu())
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
    return np.asarray(torch.cat(captured).numpy(), dtype=np.float32)
