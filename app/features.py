"""The features by which a partitioner compares samples."""

from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import nn

from app.task import build_model
from conf import Config, ConfigError
from echelon.algorithms.seeds import rng
from echelon.protocol.layout import ArrayLayout
from echelon.server import checkpoint
from echelon.server.evaluation import consensus_arrays
from partitioners.submodular import features
from tasks import Task

# Keys of a partitioner's configuration that are used here and are no parameters of the partitioner.
KEYS = frozenset({"features", "components", "model_path"})

_CHUNK = 2048


def compared_features(config: Config, task: Task) -> NDArray[np.float32]:
    """Return the features of all training samples, shape (n, d): pixels, principal components, or a model's.

    Raises
    ------
    ConfigError
        If ``features=model`` and `model_path` has no checkpoint, or one of another model.
    """
    chosen = {key: value for key, value in vars(config.partitioner).items() if key in KEYS}
    raw = task.train.features()
    kind = chosen.get("features", "raw")  # without the key: pixels, for report=full
    if kind == "raw":
        return raw
    if kind == "pca":
        return features.pca(raw, chosen["components"], rng(config.seed, "features"))
    check_model_path(config)
    model = _trained_model(config, str(chosen["model_path"]))
    chunks = torch.split(torch.arange(len(task.train)), _CHUNK)
    return np.concatenate([features.penultimate(model, task.train.batch(chunk)[0]) for chunk in chunks])


def check_model_path(config: Config) -> None:
    """Raise ConfigError if ``features=model`` names no run whose model to use."""
    chosen = vars(config.partitioner)
    if chosen.get("features") == "model" and not chosen["model_path"]:
        raise ConfigError(
            "partitioner.features=model needs partitioner.model_path, the run that trained the model; got null"
        )


def _trained_model(config: Config, path: str) -> nn.Module:
    """Return the consensus model of an earlier run."""
    model = build_model(config)
    layout = ArrayLayout(ArrayRecord(model.state_dict()))
    try:
        state = checkpoint.load(Path(path) / "checkpoint")
    except checkpoint.CheckpointError as error:
        raise ConfigError(f"partitioner.model_path must be a run folder with a checkpoint; got {path}") from error
    if state.rows.shape[1] != layout.size:
        raise ConfigError(f"partitioner.model_path must be a run of model={config.model.name}; got {path}")
    model.load_state_dict(consensus_arrays(state, layout).to_torch_state_dict())
    return model
