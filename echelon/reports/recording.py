"""Run folder, checkpoints and resume for a strategy in a ServerApp of your own."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from omegaconf import OmegaConf

from echelon.reports.models import Models
from echelon.reports.run_folder import RunFolder, RunFolderError
from echelon.reports.stopping import StopAt
from echelon.reports.summary import summarise
from echelon.server import checkpoint
from echelon.server.options import Options
from echelon.server.state import ServerState
from echelon.server.strategy import FlowerStrategy


class Recording:
    """Record a run in a folder, and continue the run that the folder holds.

    Give `options` to the strategy and let `start` run it, within a ``with`` block. The folder then has the files of
    docs/reports.md: records, checkpoints, models, summary and figures, as from ``run_sim.py``. If it holds checkpoints
    of a run, that run goes on after the newest one.

    Parameters
    ----------
    folder : str or Path
        New, empty, or of an earlier run with the same settings.
    settings : mapping, optional
        What the run depends on, such as strategy, learning rate and seed; written to ``config.yaml``. Comparisons
        group runs by it.
    every : int
        Rounds between checkpoints; the last round, also of a run that is interrupted, always has one.
    keep : int
        Newest checkpoints to keep.

    Raises
    ------
    RunFolderError
        If another process uses the folder, it cannot be written, a file is damaged, or a setting differs from that of
        the run in it.
    CheckpointError
        If every checkpoint in it is damaged.

    Examples
    --------
    >>> import tempfile, torch
    >>> from flwr.app import ArrayRecord
    >>> from echelon.clients import make_client_app
    >>> from echelon.engines.inline import InlineGrid
    >>> from echelon.reports.recording import Recording
    >>> from echelon.strategies import AllReduce
    >>> data = torch.eye(8), torch.arange(8)
    >>> app = make_client_app(lambda rank, num_workers: data, lambda: torch.nn.Linear(8, 8))
    >>> arrays = ArrayRecord(torch.nn.Linear(8, 8).state_dict())
    >>> folder = tempfile.mkdtemp()
    >>> for rounds in (2, 3):
    ...     with Recording(folder, {"strategy": "all_reduce"}) as recording:
    ...         strategy = AllReduce(**recording.options)
    ...         result = recording.start(strategy, InlineGrid(app, 2), arrays, num_rounds=rounds)
    ...         print(list(result.train_metrics_clientapp))
    [1, 2]
    [3]
    """

    def __init__(
        self, folder: str | Path, settings: Mapping[str, Any] | None = None, *, every: int = 10, keep: int = 3
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 round; got {every}")
        path, text = Path(folder), OmegaConf.to_yaml(OmegaConf.create(dict(settings or {})))
        is_new = not (path / "config.yaml").exists()
        self.folder = RunFolder.create(path, text) if is_new else RunFolder.resume(path)
        self._saver = checkpoint.Saver(path / "checkpoint", every, 0, keep, self.folder.sync_metrics)
        self._last: dict[str, Any] = {}
        self._state: ServerState | None = None
        try:
            self._state = None if is_new else _reached(self.folder, text)
        except BaseException:
            self.folder.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.folder.close()

    @property
    def options(self) -> Options:
        """Keyword arguments of the strategy: what writes the records, and the state to continue from."""
        return Options(on_round=[self._record, self._saver], state=self._state)

    def start(
        self,
        strategy: FlowerStrategy,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        *,
        stop_at: str | None = None,
        **more: Any,
    ) -> Result:
        """Run ``num_rounds`` rounds in all, those of the earlier run included, and finish the folder.

        Parameters
        ----------
        strategy : FlowerStrategy
            Made with `options`.
        grid, initial_arrays, num_rounds, **more
            As in :meth:`FlowerStrategy.start`.
        stop_at : str, optional
            A condition that ends the run early, such as ``consensus_accuracy>=0.9`` with an ``evaluate_fn``.

        Raises
        ------
        ValueError
            If ``stop_at`` is no condition, or the earlier run has done more rounds.
        """
        reached = 0 if self._state is None else self._state.round
        if num_rounds < max(reached, 1):
            raise ValueError(
                f"num_rounds must be at least {max(reached, 1)} to continue {self.folder.path}; got {num_rounds}"
            )
        condition = None if stop_at is None else StopAt.parse(stop_at)
        models = Models(self.folder)
        self._saver.copies = strategy.moves_between_rounds

        def is_over() -> bool:
            models.round(self._last, strategy.consensus)
            return condition is not None and condition.is_met(self._last)

        try:
            result = strategy.start(grid, initial_arrays, num_rounds, should_stop=is_over, **more)
        finally:
            self._saver.stopped()
        written = RunFolder.open(self.folder.path)
        state, layout = strategy.state, strategy.session.layout
        models.finished(
            written.metrics[-1], result.arrays, lambda rank: layout.arrays(state.rows[rank], state.exact[rank])
        )
        self.folder.write_summary(summarise(written, strategy.state.samples))
        from echelon.reports import figures  # here, because matplotlib is slow to import

        figures.write(RunFolder.open(self.folder.path))
        return result

    def _record(self, record: dict[str, Any], state: ServerState) -> None:
        self._last = record
        self.folder.append_metrics(record)


def _reached(folder: RunFolder, settings: str) -> ServerState | None:
    """Return the state to continue a folder's run from, with the later records removed; None to start over."""
    given: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(settings))  # type: ignore[assignment]
    for key in folder.config | given:
        before, now = folder.config.get(key), given.get(key)
        if before != now:
            raise RunFolderError(f"{folder.path} has a run with {key}={before}; got {key}={now}: choose another folder")
    places = folder.path / "checkpoint"
    state = checkpoint.load(places) if checkpoint.exists(places) else None
    folder.rewind(0 if state is None else state.round, settings)
    return state
