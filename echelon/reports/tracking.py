"""Send metrics to TensorBoard, Weights & Biases or MLflow: optional extras, imported only if selected."""

import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from echelon.reports.run_groups import flatten

Kind = Literal["none", "tensorboard", "wandb", "mlflow"]


class TrackingError(ValueError):
    """An unavailable tracker; the message is one line with a remedy."""


class Tracker(Protocol):
    """An additional destination for metrics."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Log the record of a round, as in ``metrics.jsonl``."""

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Log the summary, as in ``summary.json``, and close; None means that the run failed."""


def make(kind: Kind, folder: Path, config: Mapping[str, Any]) -> Tracker:
    """Return the tracker for a kind.

    Parameters
    ----------
    kind : {"none", "tensorboard", "wandb", "mlflow"}
        TensorBoard writes to ``tensorboard/`` in the folder; the others follow their own environment variables
        (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``, ...).
    folder : Path
        The run folder; its name names the run.
    config : mapping
        Nested configuration, logged with the run.

    Raises
    ------
    TrackingError
        If the extra is not installed, the service reports an error, or the kind is unknown.
    """
    trackers: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
        "none": _None,
        "tensorboard": _TensorBoard,
        "wandb": _Wandb,
        "mlflow": _MLflow,
    }
    if kind not in trackers:
        raise TrackingError(f"tracking must be one of {', '.join(trackers)}; got {kind}")
    try:
        return trackers[kind](folder, config)
    except ModuleNotFoundError as error:
        raise TrackingError(f"tracking={kind} needs an extra: pip install 'flwr-echelon[{kind}]' ({error})") from error


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record by name; a list by rank becomes ``/mean``, ``/min`` and ``/max``.

    Omits the round, lists that are not by rank, and missing or non-finite values.
    """
    numbers: dict[str, float] = {}
    for key, value in record.items():
        if _is_number(value) and key != "round":
            numbers[key] = float(value)
        elif isinstance(value, list | tuple) and key not in ("present", "leaders_best", "leaders_degree"):
            items = [float(item) for item in value if _is_number(item)]
            if items:
                numbers[f"{key}/mean"] = sum(items) / len(items)
                numbers[f"{key}/min"], numbers[f"{key}/max"] = min(items), max(items)
    return numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class _None:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        pass

    def log(self, record: Mapping[str, Any]) -> None:
        pass

    def close(self, summary: Mapping[str, Any] | None) -> None:
        pass


class _TensorBoard:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        # TensorBoard's own writer, because torch's would import torch unnecessarily.
        self._writer = importlib.import_module("tensorboard.summary").Writer(str(folder / "tensorboard"))

    def log(self, record: Mapping[str, Any]) -> None:
        for tag, value in scalars(record).items():
            self._writer.add_scalar(tag, value, step=record["round"])

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        try:
            self._run = wandb.init(project="echelon", name=folder.name, dir=str(folder), config=dict(config))
        except wandb.errors.Error as error:
            raise TrackingError(f"tracking=wandb: {_first_line(error)}") from error

    def log(self, record: Mapping[str, Any]) -> None:
        self._run.log(scalars(record), step=record["round"])

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self._run.summary.update(dict(summary or {}))
        self._run.finish(exit_code=1 if summary is None else 0)


class _MLflow:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        try:
            self._mlflow.set_experiment("echelon")
            self._mlflow.start_run(run_name=folder.name)
            self._mlflow.log_params(flatten(config))
        except self._mlflow.exceptions.MlflowException as error:
            raise TrackingError(f"tracking=mlflow: {_first_line(error)}") from error

    def log(self, record: Mapping[str, Any]) -> None:
        self._mlflow.log_metrics(scalars(record), step=record["round"])

    def close(self, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            self._mlflow.log_metrics({f"final/{key}": value for key, value in scalars(summary).items()})
        self._mlflow.end_run("FAILED" if summary is None else "FINISHED")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
