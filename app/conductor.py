"""What follows what in a run without a server: rounds, checkpoints, evaluations and models (``engine=torch``)."""

from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

import numpy as np

from conf import Config
from echelon.engines.kept import Shared
from echelon.reports.models import Models
from echelon.reports.run_folder import RunFolder
from echelon.reports.stopping import StopAt
from echelon.server import shards
from echelon.server.checkpoint_file import CheckpointError

Record = dict[str, Any]


class Conductor:
    """Leads the processes of a run; a :class:`echelon.engines.torch.Conductor`.

    Parameters
    ----------
    config : Config
        Of the run.
    folder : RunFolder
        Of the run; a resumed one has records already.
    report : callable
        Takes the record of a round.
    stop : threading.Event
        Ends the run.
    owners : sequence of int
        The process that holds each worker.

    Attributes
    ----------
    samples : int
        Samples that all workers have processed.
    """

    def __init__(
        self, config: Config, folder: RunFolder, report: Callable[[Record], None], stop: Event, owners: list[int]
    ) -> None:
        self._config, self._folder, self._report, self._stop, self._owners = config, folder, report, stop, owners
        self._stop_at = None if config.stop_at is None else StopAt.parse(config.stop_at)
        self._models = Models(folder)
        records = RunFolder.open(folder.path).metrics
        self._last: Record = records[-1] if records else {}
        self.samples = sum(sum(filter(None, record.get("samples", ()))) for record in records)
        saved = folder.path / "checkpoint"
        shards.forget_after(self.reached, saved, range(config.workers))
        self._is_saved, self._names = True, shards.names(saved)
        self._due: list[str] = []

    @property
    def reached(self) -> int:
        """The round that is finished; 0 at the start of a run."""
        return int(self._last.get("round", 0))

    def first(self) -> str:
        """Return the first step: a round, or what is missing of the last one."""
        reached = self.reached
        is_due = reached == self._config.rounds or (reached and reached % self._config.eval_every == 0)
        if is_due and "consensus_accuracy" not in self._last and reached < self._config.rounds:
            self._due = ["evaluate"]
        return self._following()

    def committed(self, step: str, values: Mapping[int, Any], lost: Mapping[int, str]) -> str:
        """Keep what has come of a step; return the next one."""
        first = values[min(values)]
        if step == "round":
            self._round(first, lost)
        elif step == "save":
            self._save(values)
        elif step == "evaluate":
            self._last = self._folder.amend_last(first)
        if self._stop.is_set():
            return self.interrupted()
        return "end" if step == "close" else self._following()

    def interrupted(self) -> str:
        """Return what is to be done before the end of a run that is stopped."""
        return "end" if self._is_saved or not self._config.checkpoint_every else "save"

    def _round(self, record: Record, lost: Mapping[int, str]) -> None:
        for process, reason in lost.items():
            for rank in np.flatnonzero(np.array(self._owners) == process).tolist():
                record["rejections"][str(rank)] = reason
        record["rejected"] = len(record["rejections"])
        self._report(record)
        self._last, self._is_saved = record, False
        self.samples += sum(filter(None, record["samples"]))
        every = self._config.checkpoint_every
        if self._models.is_best(record):
            self._due.append("best")
        if every and (record["round"] % every == 0 or record["round"] == self._config.rounds):
            self._due.append("save")

    def _save(self, values: Mapping[int, tuple[dict[int, str], Shared] | None]) -> None:
        """Make the files of the processes a checkpoint."""
        self._folder.sync_metrics()
        known = [value for value in values.values() if value is not None]
        for names, _ in known:
            self._names |= names
        shared = known[0][1]
        where, keep = self._folder.path / "checkpoint", self._config.checkpoint_keep
        try:
            shards.commit(shared.tally, self._names, where, keep, **shared.numbers())
        except OSError as error:
            raise CheckpointError(
                f"{where}: the checkpoint of round {shared.tally.round} cannot be written: {error.strerror}"
            ) from error
        self._is_saved = True

    def _following(self) -> str:
        if self._due:
            return self._due.pop(0)
        if self.reached < self._config.rounds and not self._is_met():
            return "round"
        if not self._is_saved and self._config.checkpoint_every:
            return "save"
        return "close" if "consensus_accuracy" in self._last else "evaluate"

    def _is_met(self) -> bool:
        return self._stop_at is not None and bool(self._last) and self._stop_at.is_met(self._last)
