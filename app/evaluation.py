"""Evaluation on the server: test accuracy and loss, and the loss on a held-out batch of training samples."""

from threading import Event

import torch
from flwr.app import ArrayRecord, MetricRecord

import tasks
from app.partition import held_out
from clients.devices import is_available, resolve
from conf import Config
from echelon.server.evaluated import EvaluatedWorkers
from strategies import RunStoppedError
from tasks import Task


def make_evaluation(config: Config, task: Task, model: torch.nn.Module, stop: Event | None = None) -> "Evaluation":
    """Return the evaluation of a configuration's models; see :class:`Evaluation`."""
    held_out_split = task.train.subset(torch.from_numpy(held_out(config, len(task.train))))
    return Evaluation(config, model, task.test, held_out_split, stop)


def evaluated_workers(config: Config, task: Task) -> EvaluatedWorkers:
    """Return which workers' models are evaluated, and when."""
    return EvaluatedWorkers(
        config.evaluate_workers, len(task.test), config.eval_every, num_rounds=config.rounds, seed=config.seed
    )


class Evaluation:
    """Evaluates models given as Flower arrays.

    Parameters
    ----------
    config : Config
        Of the run.
    model : torch.nn.Module
        Of the run; its values are overwritten.
    test, held_out : tasks.Split
        Test samples, and the training samples that no worker holds (may be empty).
    stop : threading.Event, optional
        Ends an evaluation of the test samples, which may take minutes, within a batch.
    """

    def __init__(
        self,
        config: Config,
        model: torch.nn.Module,
        test: tasks.Split,
        held_out: tasks.Split,
        stop: Event | None = None,
    ) -> None:
        # In a deployment the device is meant for the workers; the server may have none of its kind.
        self._device = config.device if config.device == "cpu" or is_available(config.device) else resolve("auto")
        self._model = model.to(self._device)
        self._test = test
        self._held_out = held_out
        self._stop = stop or Event()

    def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Return ``accuracy`` and ``loss`` on the test samples.

        Raises
        ------
        RunStoppedError
            When ``stop`` is set.
        """
        with self._model.register_forward_pre_hook(self._check_stop):
            loss, accuracy = self._evaluate(arrays, self._test)
        return MetricRecord({"accuracy": accuracy, "loss": loss})

    def held_out_loss(self, arrays: ArrayRecord) -> float:
        """Return the mean loss on the held-out training samples."""
        return self._evaluate(arrays, self._held_out)[0]

    def _check_stop(self, *_: object) -> None:
        if self._stop.is_set():
            raise RunStoppedError("the run was stopped")

    def _evaluate(self, arrays: ArrayRecord, split: tasks.Split) -> tuple[float, float]:
        self._model.load_state_dict(arrays.to_torch_state_dict())
        return tasks.evaluate(self._model, split, device=self._device)
