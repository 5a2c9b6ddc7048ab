"""The Flower ServerApp, composed from the configuration; used by ``run_sim.py`` and by ``flwr run`` alike."""

from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import HttpGrid

from app.checks import check
from app.evaluation import Evaluation
from app.partition import held_out, make_partition
from app.strategy import build as build_strategy
from app.task import build_model, load_task
from conf import (
    Config,
    ConfigError,
    compose,
    config_hash,
    from_yaml,
    groups,
    parse_overrides,
    preflight,
    saved_yaml,
    to_yaml,
)
from echelon.persistent import processes
from echelon.reports import figures, progress, tracking
from echelon.reports.progress import Progress
from echelon.reports.run_folder import RunFolder
from echelon.server import checkpoint
from echelon.server.evaluation import evaluate_models
from strategies import (
    AllWorkersFailedError,
    FlowerStrategy,
    Options,
    Partition,
    Roster,
    RosterError,
    RunStoppedError,
    ServerState,
)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the ``overrides`` of ``flwr run`` ask for."""
    if isinstance(grid, HttpGrid):
        processes.end_with_parent()
    config = compose(parse_overrides(str(context.run_config.get("overrides", ""))))
    preflight(config)
    check(config, deployed=isinstance(grid, HttpGrid))
    _check_resumed(config)
    path = Path(config.resume or config.run_dir or f"runs/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    with progress.make("none" if config.progress == "none" else "plain") as view:
        folder = open_folder(config, path)
        show(folder, view, run(config, grid, folder, view))
    print(path.resolve())


def _check_resumed(config: Config) -> None:
    """Check that a resumed run has its saved configuration: the workers know only the overrides of this command.

    Raises
    ------
    ConfigError
        If the configuration is not that of the earlier run, but for the number of rounds.
    """
    if config.resume is None:
        return
    saved = from_yaml(saved_yaml(config.resume))
    if config_hash(replace(saved, rounds=config.rounds)) != config_hash(config):
        raise ConfigError(
            f"resume={config.resume} must come with the overrides of the earlier run, which the workers get; "
            f"{config.resume}/config.yaml says otherwise"
        )


def make_app(config: Config, folder: RunFolder, view: Progress, stop: Event) -> ServerApp:
    """Return the ServerApp of a configuration whose run folder and view are there already."""
    made = ServerApp()

    @made.main()
    def run_config(grid: Grid, context: Context) -> None:
        show(folder, view, run(config, grid, folder, view, stop))

    return made


def open_folder(config: Config, path: Path) -> RunFolder:
    """Create the run folder, or open that of the resumed run.

    Raises
    ------
    ConfigError
        If the run to resume has finished more rounds than requested.
    """
    if config.resume is None:
        return RunFolder.create(path, to_yaml(config))
    reached = checkpoint.load(path / "checkpoint").round
    if config.rounds < reached:
        raise ConfigError(f"rounds must be at least {reached}, which {path} has reached; got {config.rounds}")
    return RunFolder.resume(path, reached, to_yaml(replace(config, resume=None, run_dir=str(path))))


def run(config: Config, grid: Grid, folder: RunFolder, view: Progress, stop: Event | None = None) -> dict[str, Any]:
    """Train as configured, write the run folder, return the summary; ``stop`` ends it early, the folder in order."""
    with view.stage("Loading data and model"):
        task = load_task(config, config.task.root)
        model = build_model(config)
    arrays = ArrayRecord(model.state_dict())
    held_out_split = task.train.subset(torch.from_numpy(held_out(config, len(task.train))))
    evaluation = Evaluation(config, model, task.test, held_out_split)
    tracker = tracking.make(config.tracking, folder.path, asdict(config))
    last: dict[str, Any] = {}

    def report(record: dict[str, Any], state: ServerState) -> None:
        last.update(record)
        folder.append_metrics(record)
        tracker.log(record)
        view.round(record)

    waiting = ExitStack()

    def partition(roster: Roster) -> Partition:
        waiting.close()
        return make_partition(config, task, folder.path, view, roster)

    saver = _saver(config, folder)
    options = Options(on_round=[report, saver], partition=partition, stop=stop or Event())
    options["held_out_loss"] = evaluation.held_out_loss
    if config.resume is not None:
        options["state"] = checkpoint.load(folder.path / "checkpoint")
    wall_clock = config.clock == "wall" or (config.clock == "auto" and isinstance(grid, HttpGrid))
    strategy = build_strategy(config, options, wall_clock=wall_clock)
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
                config.rounds,
                timeout=config.work.timeout,
                train_config=ConfigRecord({**train_config}),
                evaluate_fn=evaluation,
            )
        summary = _summary(config, last or _last_record(folder, strategy, evaluation), strategy.state)
        summary["whole_rounds"] = sorted(strategy.session.processor.whole_rounds)
        summary |= _thin_rounds(RunFolder.open(folder.path))
        folder.write_summary(summary)
    except (RunStoppedError, AllWorkersFailedError, RosterError):
        saver.stopped()
        raise
    finally:
        tracker.close(summary)
    return summary


def _first_wait(config: Config, grid: Grid) -> str:
    if isinstance(config.engine, groups.Ray) and not isinstance(grid, HttpGrid):
        return f"Starting Ray and {config.workers} workers"
    return f"Waiting for {config.workers} workers"


def show(folder: RunFolder, view: Progress, summary: dict[str, Any]) -> None:
    """Draw the run's figures and show its result."""
    with view.stage("Drawing figures"):
        figures.write(RunFolder.open(folder.path))
    view.finish(summary)


def _saver(config: Config, folder: RunFolder) -> checkpoint.Saver:
    return checkpoint.Saver(
        folder.path / "checkpoint",
        config.checkpoint_every,
        config.rounds,
        config.checkpoint_keep,
        folder.sync_metrics,
        copies=isinstance(config.strategy, groups.FedBuff),
    )


def _last_record(folder: RunFolder, strategy: FlowerStrategy, evaluation: Evaluation) -> dict[str, Any]:
    """Return the record of the round that a resumed run with nothing left to do had reached, evaluated."""
    record = folder.metrics[-1]
    if "worker_accuracy" in record:
        return record
    return folder.amend_last(
        evaluate_models(evaluation, strategy.state.round, strategy.state, strategy.session.layout)[1]
    )


def _thin_rounds(folder: RunFolder) -> dict[str, int]:
    """Return how many rounds of a whole run, resumed or not, had few workers, and how many attempts had none."""
    return {
        "thin_rounds": sum(bool(record.get("thin")) for record in folder.metrics),
        "empty_attempts": sum(record.get("empty_attempts", 0) for record in folder.metrics),
    }


def _summary(config: Config, last: dict[str, Any], state: ServerState) -> dict[str, Any]:
    accuracy = np.array(last["worker_accuracy"])
    return {
        "rounds": state.round,
        "virtual_seconds": state.virtual_seconds,
        "wall_seconds": state.wall_seconds,
        "consensus_accuracy": last["consensus_accuracy"],
        "worker_accuracy_mean": accuracy.mean(),
        "worker_accuracy_min": accuracy.min(),
        "worker_accuracy_max": accuracy.max(),
        "train_loss": last["train_loss"],
        "samples": state.samples,
        "config_hash": config_hash(config),
    }
