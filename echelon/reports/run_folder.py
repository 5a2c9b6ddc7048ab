"""The run folder on disk: written while a run goes on, readable at any moment of it."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from echelon.reports import environment

Record = dict[str, Any]
# Without these nothing can be shown; every other field may be missing.
_REQUIRED = {"round", "virtual_seconds", "minibatches"}


class RunFolderError(ValueError):
    """A folder that cannot be read or written as a run; the message is one line and names the folder."""


class RunFolder:
    """One run's folder: ``config.yaml, environment.json, metrics.jsonl, summary.json, run.log, figures/, checkpoint/``.

    Made with `create` (a new run), `resume` (a run that goes on) or `open` (reading).

    Attributes
    ----------
    path : Path
        The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics_file = path / "metrics.jsonl"

    @classmethod
    def create(cls, path: str | Path, config_yaml: str) -> Self:
        """Make a new run folder and write what is known before the first round.

        Parameters
        ----------
        path : str or Path
            Where; parents are made. The folder may exist, but must not hold a run.
        config_yaml : str
            The final configuration as YAML.

        Raises
        ------
        RunFolderError
            If the folder already holds a run, or cannot be written.
        """
        folder = cls(Path(path))
        if folder._metrics_file.exists():
            raise RunFolderError(f"{path}: already holds a run; choose another run_dir or resume it")
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            (folder.path / "config.yaml").write_text(config_yaml, encoding="utf-8")
            folder._write_json("environment.json", environment.describe())
            folder._metrics_file.touch()
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be written: {error.strerror}") from error
        return folder

    @classmethod
    def resume(cls, path: str | Path, after_round: int, config_yaml: str) -> Self:
        """Open a run folder to go on writing after a round: later records and the summary are removed.

        Parameters
        ----------
        path : str or Path
            The folder of a run that was broken off, or that shall have more rounds.
        after_round : int
            The round of the checkpoint from which the run goes on; 0 starts over.
        config_yaml : str
            The configuration under which it goes on.

        Raises
        ------
        RunFolderError
            As `open`; also if the records do not reach that round.
        """
        folder = cls.open(path)
        kept = [record for record in folder.metrics if record["round"] <= after_round]
        if after_round and (not kept or kept[-1]["round"] != after_round):
            raise RunFolderError(f"{path}: metrics.jsonl does not reach round {after_round} of the checkpoint")
        # The summary goes first: it would call the run finished under a configuration that is no longer its own.
        (folder.path / "summary.json").unlink(missing_ok=True)
        folder._replace("config.yaml", config_yaml)
        folder._write_metrics(kept)
        return cls(folder.path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing run folder for reading; a run still going on or broken off can be read too.

        Raises
        ------
        RunFolderError
            If there is no such folder, it is empty, it is not a run's, or one of its files is damaged. A last line of
            ``metrics.jsonl`` that was cut off by a kill is no damage: it is left out.
        """
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise RunFolderError(f"{path}: no such folder")
        if not any(folder.path.iterdir()):
            raise RunFolderError(f"{path}: empty folder, not a run")
        missing = [name for name in ("config.yaml", "metrics.jsonl") if not (folder.path / name).is_file()]
        if missing:
            raise RunFolderError(f"{path}: not a run folder: {' and '.join(missing)} missing")
        _ = folder.config, folder.metrics, folder.summary
        return folder

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one round's record to ``metrics.jsonl`` and flush it; NaN and infinities become null.

        Parameters
        ----------
        record : mapping
            Plain values, lists, numpy scalars and arrays, and mappings of them.
        """
        # One write of one whole line: a reader, or a kill, meets whole lines only.
        with self._metrics_file.open("a", encoding="utf-8") as file:
            file.write(_line(record))

    def amend_last(self, fields: Mapping[str, Any]) -> Record:
        """Add fields to the record of the last round; return that record."""
        *before, last = RunFolder(self.path).metrics
        last |= _plain(fields)
        self._write_metrics([*before, last])
        return last

    def sync_metrics(self) -> None:
        """Wait until all records are on the disk: a checkpoint that outlives them could not be resumed from."""
        with self._metrics_file.open("rb") as file:
            os.fsync(file.fileno())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, which marks the run as finished."""
        self._write_json("summary.json", summary)

    @cached_property
    def config(self) -> Record:
        """The configuration, nested as in ``config.yaml``."""
        try:
            loaded = OmegaConf.to_container(OmegaConf.load(self.path / "config.yaml"))
        except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
            raise RunFolderError(f"{self.path}: config.yaml cannot be read: {_first_line(error)}") from error
        if not isinstance(loaded, dict):
            raise RunFolderError(f"{self.path}: config.yaml must hold a mapping")
        return {str(key): value for key, value in loaded.items()}

    @cached_property
    def metrics(self) -> list[Record]:
        """The rounds' records, in order."""
        lines = self._metrics_file.read_bytes().split(b"\n")
        records: list[Record] = []
        # What follows the last newline is empty, or a line cut off by a kill.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise RunFolderError(f"{self.path}: metrics.jsonl line {number} is broken: {error}") from error
            if not isinstance(record, dict) or not record.keys() >= _REQUIRED:
                raise RunFolderError(f"{self.path}: metrics.jsonl line {number} is no record of a round")
            records.append(record)
        return records

    @cached_property
    def summary(self) -> Record | None:
        """The summary; None while the run is unfinished."""
        return self._read_json("summary.json")

    @cached_property
    def environment(self) -> Record:
        """What the run was run on; empty if unknown."""
        return self._read_json("environment.json") or {}

    @cached_property
    def partition(self) -> Record | None:
        """``partition.json``: ``sizes`` by rank and, where labels are known, ``class_counts`` by rank and class."""
        return self._read_json("partition.json")

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.summary is not None

    @property
    def log(self) -> Path:
        """``run.log``: what libraries printed during the run."""
        return self.path / "run.log"

    @property
    def figures(self) -> Path:
        """``figures/``, made on first use."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self._replace(name, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")

    def _write_metrics(self, records: Iterable[Record]) -> None:
        self._replace(self._metrics_file.name, "".join(map(_line, records)))

    def _replace(self, name: str, text: str) -> None:
        """Write a file so that a kill, or a power cut, leaves the old one or the new one."""
        temporary = (self.path / name).with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)

    def _read_json(self, name: str) -> Record | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            value = json.loads(file.read_bytes())
        except ValueError as error:
            raise RunFolderError(f"{self.path}: {name} cannot be read: {_first_line(error)}") from error
        if not isinstance(value, dict):
            raise RunFolderError(f"{self.path}: {name} must hold a mapping")
        return value


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(_plain(record), allow_nan=False, separators=(",", ":")) + "\n"


def _plain(value: Any) -> Any:
    """Return the value in JSON's types: NaN and infinities have none and become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
