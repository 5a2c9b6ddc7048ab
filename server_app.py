"""The Flower ServerApp, composed from the configuration; used by ``run_sim.py`` and by ``flwr run`` alike."""

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime
from logging import ERROR
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from app import results
from app.checks import check
from app.evaluation import Evaluation, evaluated_workers, make_evaluation
from app.partition import make_partition
from app.strategy import build as build_strategy
from app.task import build_model, initial_model, load_task
from conf import (
    Config,
    ConfigError,
    compose,
    config_hash,
    first_difference,
    groups,
    of_run_config,
    preflight,
    saved,
    to_yaml,
)
from echelon.engines.bundling import BundlingGrid
from echelon.engines.ray import default_window
from echelon.persistent import processes, signals
from echelon.protocol.layout import ArrayLayout
from echelon.reports import progress, tracking
from echelon.reports.models import Models
from echelon.reports.progress import Progress
from echelon.reports.run_folder import RunFolder
from echelon.reports.stopping import StopAt
from echelon.reports.summary import summarise
from echelon.server import checkpoint
from echelon.server.evaluated import EvaluatedWorkers
from echelon.server.evaluation import consensus_arrays, evaluate_models
from echelon.server.transport import is_deployed
from strategies import AllWorkersFailedError, Options, Partition, Roster, RosterError, RunStoppedError, ServerState

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run-config of ``flwr run`` asks for."""
    if is_deployed(grid):
        processes.end_with_parent()
    config = compose(of_run_config(context.run_config))
    preflight(config)
    check(config, deployed=is_deployed(grid))
    _check_resumed(config)
    path = Path(config.resume or config.run_dir or f"runs/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    view = progress.make("none" if config.progress == "none" else "plain")
    stop = Event()
    if is_deployed(grid) and current_thread() is main_thread():
        # Flower's own handler would end the process within a round.
        signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with view, open_folder(config, path) as folder:
        try:
            results.show(folder, view, run(config, grid, folder, view, stop))
        except Exception as error:
            # Flower shows a traceback; this is what an operator has to know.
            log(ERROR, "error: %s; %s", error, _resume_hint(folder.path))
            raise
    print(path.resolve())


def _resume_hint(path: Path) -> str:
    again = "to continue" if checkpoint.exists(path / "checkpoint") else "there is no checkpoint yet; to start again"
    return f"{again}: submit the run with its overrides and resume={path.resolve()}"


def _check_resumed(config: Config) -> None:
    """Check that a resumed run has its saved configuration: the workers know only the overrides of this command.

    Raises
    ------
    ConfigError
        If the configuration is not that of the earlier run, but for the number of rounds.
    """
    if config.resume is None:
        return
    key = first_difference(saved(config.resume), config)
    if key is not None:
        raise ConfigError(
            f"resume={config.resume} must come with the overrides of the earlier run, which the workers get; "
            f"{key} differs from {config.resume}/config.yaml"
        )


def make_app(config: Config, folder: RunFolder, view: Progress, stop: Event) -> ServerApp:
    """Return the ServerApp of a configuration whose run folder and view are there already."""
    made = ServerApp()

    @made.main()
    def run_config(grid: Grid, context: Context) -> None:
        results.show(folder, view, run(config, grid, folder, view, stop))

    return made


def open_folder(config: Config, path: Path, newest: Callable[[Path], int] | None = None) -> RunFolder:
    """Create the run folder, or open that of the resumed run; it is locked until it is closed.

    Parameters
    ----------
    config : Config
        Of the run.
    path : Path
        The folder.
    newest : callable, optional
        (folder of the checkpoints) -> round of the newest one that can be continued; by default, this process must
        have all of it. It raises CheckpointError if there is none.

    Raises
    ------
    ConfigError
        If the run to resume has finished more rounds than requested.
    RunFolderError, CheckpointError
        If the folder is in use, or one of its files is damaged.
    """
    if config.resume is None:
        return RunFolder.create(path, to_yaml(config))
    with ExitStack() as unless_opened:
        folder = unless_opened.enter_context(RunFolder.resume(path))
        reached = _reached(folder, newest or (lambda saved: checkpoint.load(saved).round))
        if config.rounds < reached:
            raise ConfigError(f"rounds must be at least {reached}, which {path} has reached; got {config.rounds}")
        folder.rewind(reached, to_yaml(replace(config, resume=None, run_dir=str(path))))
        unless_opened.pop_all()
    return folder


def _reached(folder: RunFolder, newest: Callable[[Path], int]) -> int:
    """Return the round to continue after; 0 if the run ended before its first checkpoint was due."""
    saved, every = folder.path / "checkpoint", folder.config.get("checkpoint_every")
    rounds = folder.metrics[-1]["round"] if folder.metrics else 0
    # It may have been killed between the record of a round and its checkpoint; beyond that, the checkpoints are lost.
    if folder.finished or not every or rounds > every or checkpoint.exists(saved):
        return newest(saved)
    print(f"{folder.path} has no checkpoint yet: the run starts again", file=sys.stderr)
    return 0


def run(config: Config, grid: Grid, folder: RunFolder, view: Progress, stop: Event | None = None) -> dict[str, Any]:
    """Train as configured, write the run folder, return the summary; ``stop`` ends it early, the folder in order."""
    stop = stop or Event()
    with view.stage("Loading data and model"), signals.interruptible():
        task = load_task(config, config.task.root)
        continues = config.resume is not None and checkpoint.exists(folder.path / "checkpoint")
        model = build_model(config) if continues else initial_model(config)
    arrays = ArrayRecord(model.state_dict())
    evaluation = make_evaluation(config, task, model, stop)
    tracker = tracking.make(config.tracking, folder.path, asdict(config))
    write = results.recorder(folder, tracker, view)
    stop_at = None if config.stop_at is None else StopAt.parse(config.stop_at)
    last: dict[str, Any] = {}

    def report(record: dict[str, Any], state: ServerState) -> None:
        last.clear()
        last.update(record)
        models.round(record, lambda: consensus_arrays(state, strategy.session.layout, robust=strategy.robust))
        write(record)

    waiting = ExitStack()

    def partition(roster: Roster) -> Partition:
        waiting.close()
        with signals.interruptible():
            return make_partition(config, task, folder.path, view, roster)

    saver = _saver(config, folder)
    options = Options(on_round=[report, saver], partition=partition, stop=stop)
    options["held_out_loss"] = evaluation.held_out_loss
    chosen = evaluated_workers(config, task)
    options["evaluate_workers"] = chosen
    # A grid of bundles limits by itself what is in flight.
    if isinstance(config.engine, groups.Ray) and not config.engine.window and not isinstance(grid, BundlingGrid):
        options["window"] = default_window(config.workers, config.engine.num_cpus)
    if continues:
        options["state"] = checkpoint.load(folder.path / "checkpoint")
    wall_clock = config.clock == "wall" or (config.clock == "auto" and is_deployed(grid))
    strategy = build_strategy(config, options, wall_clock=wall_clock)
    saver.copies = strategy.moves_between_rounds
    if (state := options.get("state")) and (state.round == config.rounds or state.round % config.eval_every == 0):
        _evaluate_last(folder, evaluation, state, ArrayLayout(arrays), strategy.robust, chosen)
    models, rounds = Models(folder), config.rounds
    if state and stop_at is not None and stop_at.is_met(RunFolder.open(folder.path).metrics[-1]):
        rounds = state.round
    view.start(config.rounds, config.workers)
    trainer = {"persistent": config.deployment.persistent_workers, "timeout_seconds": config.deployment.timeout}
    train_config = {"wall_clock": wall_clock, **trainer}
    summary = None
    try:
        with waiting:
            waiting.enter_context(view.stage(_first_wait(config, grid)))
            strategy.start(
                grid,
                arrays,
                rounds,
                timeout=config.work.timeout,
                train_config=ConfigRecord({**train_config}),
                evaluate_fn=evaluation,
                should_stop=lambda: stop_at is not None and stop_at.is_met(last),
            )
        if strategy.state.round < config.rounds:
            saver.stopped()
            _evaluate_last(folder, evaluation, strategy.state, ArrayLayout(arrays), strategy.robust, chosen)
        written = RunFolder.open(folder.path)
        finished, layout = strategy.state, strategy.session.layout
        consensus = consensus_arrays(finished, layout, robust=strategy.robust)
        models.finished(
            written.metrics[-1], consensus, lambda rank: layout.arrays(finished.rows[rank], finished.exact[rank])
        )
        summary = summarise(written, strategy.state.samples, config_hash(config))
        folder.write_summary(summary)
    except (RunStoppedError, AllWorkersFailedError, RosterError, KeyboardInterrupt):
        saver.stopped()
        raise
    finally:
        tracker.close(summary)
    return summary


def _first_wait(config: Config, grid: Grid) -> str:
    if isinstance(config.engine, groups.Ray) and not is_deployed(grid):
        return f"Starting Ray and {config.workers} workers"
    return f"Waiting for {config.workers} workers"


def _saver(config: Config, folder: RunFolder) -> checkpoint.Saver:
    return checkpoint.Saver(
        folder.path / "checkpoint",
        config.checkpoint_every,
        config.rounds,
        config.checkpoint_keep,
        folder.sync_metrics,
    )


def _evaluate_last(
    folder: RunFolder,
    evaluation: Evaluation,
    state: ServerState,
    layout: ArrayLayout,
    robust: bool,
    chosen: EvaluatedWorkers,
) -> None:
    """Evaluate the round that a resumed run continues after, if it was stopped before that or now ends there."""
    if "consensus_accuracy" not in RunFolder.open(folder.path).metrics[-1]:
        folder.amend_last(evaluate_models(evaluation, state, layout, robust=robust, chosen=chosen)[1])
