"""The run folder on disk: written during a run, readable at any time."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from echelon.core import memory, plain_yaml
from echelon.core.printable import printable
from echelon.reports import environment, graphs, records
from echelon.reports.graphs import Graphs
from echelon.reports.lines import line, plain
from echelon.reports.lock import Lock, LockedError

Record = dict[str, Any]
# Required by all views; every other field is optional.
_REQUIRED = {"round", "virtual_seconds", "minibatches"}
_EXPANSION = 4  # a number in a file takes at least so many times its bytes in memory


class RunFolderError(ValueError):
    """A run folder that cannot be read or written; the message is one line that names the folder."""


class RunFolder:
    """One run's folder: ``config.yaml``, ``metrics.jsonl``, ``summary.json`` and the other files of docs/reports.md.

    Use `create` for a new run, `resume` and `rewind` to continue a run, or `open` to read one. A folder that is created
    or resumed is locked against other processes until `close`, or the end of a ``with`` block; reading needs no lock.

    Attributes
    ----------
    path : Path
        The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics_file = path / "metrics.jsonl"
        self._graphs = Graphs()
        self._lock: Lock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock on the folder."""
        if self._lock is not None:
            self._lock.release()

    @classmethod
    def create(cls, path: str | Path, config_yaml: str) -> Self:
        """Create a run folder with configuration and environment.

        Parameters
        ----------
        path : str or Path
            Folder, created with its parents. It may exist but must not contain a run with records.
        config_yaml : str
            The final configuration as YAML.

        Raises
        ------
        RunFolderError
            If the folder already contains a run, is in use, or cannot be written.
        """
        folder = cls(Path(path))
        with folder._writing():
            folder.path.mkdir(parents=True, exist_ok=True)
        folder._take_lock()
        try:
            folder._fill(config_yaml)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def resume(cls, path: str | Path) -> Self:
        """Open and lock the folder of an interrupted or finished run, to continue it after `rewind`.

        Raises
        ------
        RunFolderError
            As `open`, or if another process uses the folder.
        """
        folder = cls.open(path)
        folder._take_lock()
        return folder

    def _fill(self, config_yaml: str) -> None:
        with self._writing():
            has_records = self._metrics_file.exists() and self._metrics_file.stat().st_size
            if has_records or (self.path / "summary.json").exists():
                raise RunFolderError(f"{self.path}: already contains a run; choose another run_dir or resume it")
            self._metrics_file.touch()
            (self.path / graphs.NAME).unlink(missing_ok=True)
        self._write_json("environment.json", environment.describe())
        self._replace("config.yaml", config_yaml)  # last: a folder with it is complete

    def rewind(self, after_round: int, config_yaml: str) -> None:
        """Remove the records after a round, and the summary.

        Parameters
        ----------
        after_round : int
            Round of the checkpoint to continue from; 0 starts over, with a new partition.
        config_yaml : str
            Configuration of the continued run.

        Raises
        ------
        RunFolderError
            If the records do not reach that round, or the folder cannot be written.
        """
        records = RunFolder(self.path).metrics
        kept = [record for record in records if record["round"] <= after_round]
        if after_round and (not kept or kept[-1]["round"] != after_round):
            raise RunFolderError(f"{self.path}: metrics.jsonl does not reach round {after_round} of the checkpoint")
        with self._writing():
            # Remove the summary first: it marks the run as finished under the previous configuration.
            (self.path / "summary.json").unlink(missing_ok=True)
            if after_round == 0:
                (self.path / "partition.npz").unlink(missing_ok=True)
        self._replace("config.yaml", config_yaml)
        self._write_metrics(kept)
        for name in ("config", "metrics", "summary"):
            self.__dict__.pop(name, None)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing run folder for reading; the run may be unfinished.

        Raises
        ------
        RunFolderError
            If the folder is missing, empty, not a run folder, or has a damaged file. An incomplete last line of
            ``metrics.jsonl`` is ignored.
        """
        folder = cls(Path(path))
        try:
            is_folder = folder.path.is_dir()
        except OSError as error:  # such as a name that is too long
            raise RunFolderError(f"{path}: {error.strerror}") from error
        if not is_folder:
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

        Raises
        ------
        RunFolderError
            If the file cannot be written, because the disk is full or the folder was moved.
        """
        short, graph = self._graphs.shorten(record)
        # A single write per file, the graph's first, so that readers and kills see only whole lines.
        with self._writing():
            for file, text in ((self.path / graphs.NAME, graph), (self._metrics_file, line(short))):
                if text:
                    with file.open("a", encoding="utf-8") as opened:
                        opened.write(text)

    def amend_last(self, fields: Mapping[str, Any]) -> Record:
        """Add fields to the record of the last round; return that record."""
        *before, last = RunFolder(self.path).metrics
        last |= plain(fields)
        self._write_metrics([*before, last])
        return last

    def sync_metrics(self) -> None:
        """Flush all records to disk, because a checkpoint newer than the records cannot be resumed."""
        listed = self.path / graphs.NAME
        with self._writing():
            for file in (listed, self._metrics_file) if listed.exists() else (self._metrics_file,):
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, which marks the run as finished."""
        self._write_json("summary.json", summary)

    @cached_property
    def config(self) -> Record:
        """The configuration, nested as in ``config.yaml``; control characters in texts are escaped."""
        try:
            loaded = OmegaConf.to_container(OmegaConf.create(plain_yaml.read(self.path / "config.yaml")))
        # OmegaConf raises AssertionError and ValueError for YAML that it cannot represent.
        except (OSError, YAMLError, OmegaConfBaseException, ValueError, AssertionError) as error:
            raise RunFolderError(f"{self.path}: config.yaml cannot be read: {_first_line(error)}") from error
        if not isinstance(loaded, dict):
            raise RunFolderError(f"{self.path}: config.yaml must contain a mapping")
        config: Record = records.printable_values(loaded)
        self._check("config.yaml", records.check_config, config)
        return config

    @cached_property
    def metrics(self) -> list[Record]:
        """The rounds' records, in order."""
        file = self.path / graphs.NAME
        known = graphs.read(self._whole_lines(file)) if file.exists() else []
        rounds: list[Record] = []
        workers = None
        for number, text in enumerate(self._whole_lines(self._metrics_file), start=1):
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise RunFolderError(f"{self.path}: metrics.jsonl line {number} is broken: {error}") from error
            if not isinstance(record, dict) or not record.keys() >= _REQUIRED:
                raise RunFolderError(f"{self.path}: metrics.jsonl line {number} is not the record of a round")
            try:
                workers = records.check_round(record, workers)
                record = graphs.resolve(record, known, workers)
            except ValueError as error:
                raise RunFolderError(f"{self.path}: metrics.jsonl line {number}: {error}") from error
            rounds.append(record)
        return rounds

    @cached_property
    def summary(self) -> Record | None:
        """The summary; None while the run is unfinished."""
        return self._read_json("summary.json", records.check_summary)

    @cached_property
    def environment(self) -> Record:
        """The environment of the run; empty if unknown."""
        return self._read_json("environment.json") or {}

    @cached_property
    def partition(self) -> Record | None:
        """``partition.json``: ``sizes`` by rank and, if labels are known, ``class_counts`` by rank and class."""
        return self._read_json("partition.json", records.check_partition)

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.summary is not None

    @property
    def log(self) -> Path:
        """``run.log``: output of libraries during the run."""
        return self.path / "run.log"

    @property
    def figures(self) -> Path:
        """``figures/``, created on first use."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    def write_model(self, name: str, content: bytes) -> None:
        """Write a file in ``models/``, created on first use.

        Raises
        ------
        RunFolderError
            If it cannot be written.
        """
        with self._writing():
            (self.path / "models").mkdir(exist_ok=True)
        self._replace(f"models/{name}", content)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self._replace(name, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def _whole_lines(self, file: Path) -> list[bytes]:
        """Return the lines of a file; what follows the last newline is empty, or a line that is being written."""
        return self._read(file).split(b"\n")[:-1]

    def _write_metrics(self, records: Iterable[Record]) -> None:
        self._graphs = Graphs()
        shortened = [self._graphs.shorten(record) for record in records]
        # The graphs last: those of the earlier file begin with the same ones.
        self._replace(self._metrics_file.name, "".join(line(short) for short, _ in shortened))
        self._replace(graphs.NAME, "".join(graph for _, graph in shortened))

    def _replace(self, name: str, content: str | bytes) -> None:
        """Replace a file atomically, safe against kills and power failures."""
        temporary = (self.path / name).with_suffix(".tmp")
        with self._writing():
            try:
                with temporary.open("wb") as file:
                    file.write(content.encode() if isinstance(content, str) else content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path / name)
            except OSError:
                temporary.unlink(missing_ok=True)  # the disk may be full
                raise

    def _take_lock(self) -> None:
        with self._writing():
            try:
                self._lock = Lock(self.path)
            except LockedError as error:
                raise RunFolderError(f"{self.path}: {error}; wait for its end, or stop it") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn an error of the operating system into one that names the folder."""
        try:
            yield
        except OSError as error:
            moved = self._lock is not None and not self.path.is_dir()
            reason = "the folder was moved or removed" if moved else error.strerror
            raise RunFolderError(f"{self.path}: cannot be written: {reason}") from error

    def _read_json(self, name: str, check: Callable[[Record], object] = lambda value: None) -> Record | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            value = json.loads(self._read(file))
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{self.path}: {name} cannot be read: {_first_line(error)}") from error
        if not isinstance(value, dict):
            raise RunFolderError(f"{self.path}: {name} must contain a mapping")
        self._check(name, check, value)
        return value

    def _read(self, file: Path) -> bytes:
        size = file.stat().st_size
        try:
            memory.require(str(file), {"values": _EXPANSION * size}, "it is no file of ours, or needs another machine")
        except ValueError as error:
            raise RunFolderError(str(error)) from error
        return file.read_bytes()

    def _check(self, name: str, check: Callable[[Record], object], value: Record) -> None:
        try:
            check(value)
        except ValueError as error:
            raise RunFolderError(f"{self.path}: {name}: {error}") from error


def _first_line(error: Exception) -> str:
    return printable((str(error) or type(error).__name__).splitlines()[0])
