"""Models as files: those that a run writes into `models/`, and the one that it starts from (`model.init`)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load_file
from torch import nn

from echelon.protocol.messages import as_ndarray
from echelon.reports.run_folder import RunFolder


def load_into(model: nn.Module, path: Path) -> None:
    """Load a model's parameters and buffers from a safetensors file.

    Raises
    ------
    ValueError
        If the file cannot be read, or is that of another model; the line names the first difference.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"model.init: {path} cannot be read as safetensors: {' '.join(str(error).split())}") from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in found.items()}
    odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if odd:
        shapes = [str(shapes.get(odd[0], "none")) for shapes in (wanted, given)]
        raise ValueError(f"model.init: {path} is of another model: {odd[0]} must be {shapes[0]}; got {shapes[1]}")
    model.load_state_dict(found)


class Models:
    """The files in a run's `models/`, with the keys of the model's `state_dict`; their metadata say which round it was.

    `consensus` and `best_worker` are those of the last round; `best_round` is the consensus model of the evaluated
    round with the highest accuracy. Without a server, each process adds those of its own workers (`app/peer.py`).

    Parameters
    ----------
    folder : RunFolder
        Of the run; a resumed one has records already.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        known = RunFolder.open(folder.path).metrics
        self._best = max((_accuracy(record) for record in known), default=-1.0)

    def is_best(self, record: Mapping[str, Any]) -> bool:
        """Return whether no evaluated round before was as good, and remember it."""
        is_better = _accuracy(record) > self._best
        self._best = max(self._best, _accuracy(record))
        return is_better

    def round(self, record: Mapping[str, Any], consensus: Callable[[], ArrayRecord]) -> None:
        """Keep the consensus model of a round if no evaluated one was better."""
        if self.is_best(record):
            write(self._folder, "best_round", consensus(), record)

    def finished(
        self, record: Mapping[str, Any], consensus: ArrayRecord, of_worker: Callable[[int], ArrayRecord]
    ) -> None:
        """Write the models of the last round; the best worker's, if an evaluation tells which that is."""
        write(self._folder, "consensus", consensus, record)
        if (rank := best_worker(record)) is not None:
            write(self._folder, "best_worker", of_worker(rank), record, rank=rank)


def best_worker(record: Mapping[str, Any]) -> int | None:
    """Return the worker whose model is the best in a round's record; None if none was evaluated."""
    accuracy = np.array(record.get("worker_accuracy", ()), dtype=np.float64)
    return int(np.nanargmax(accuracy)) if np.isfinite(accuracy).any() else None


def write(folder: RunFolder, name: str, arrays: ArrayRecord, record: Mapping[str, Any], **more: Any) -> None:
    """Write a model of a round into a run's `models/`."""
    said = {"round": record["round"], "consensus_accuracy": record.get("consensus_accuracy"), **more}
    tensors = {key: np.ascontiguousarray(as_ndarray(array)) for key, array in arrays.items()}
    content = save(tensors, {key: str(value) for key, value in said.items() if value is not None})
    folder.write_model(f"{name}.safetensors", content)


def _accuracy(record: Mapping[str, Any]) -> float:
    found = record.get("consensus_accuracy")
    return -1.0 if found is None else float(found)
