"""Compose the configuration, run Flower's simulation, write the run folder: ``python run_sim.py [key=value ...]``."""

import os

# Read when flwr and ray are imported: a simulation reports to nobody, and small models are fastest on one thread.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from flwr.app import Context, RecordDict
from rich.console import Console

import client_app
import server_app
from app.checks import check
from conf import Config, ConfigError, cli, groups
from echelon.core.printable import printable
from echelon.engines import ray
from echelon.engines.inline import InlineGrid
from echelon.reports import capture, progress
from echelon.reports.run_folder import RunFolder, RunFolderError
from echelon.server import checkpoint
from echelon.server.checkpoint import CheckpointError
from strategies import AllWorkersFailedError, RosterError, RunStoppedError

INTERRUPTED = 130


def run(config: Config) -> int:
    """Do one run; return its exit status: 0, 1 if it failed, 130 if it was interrupted."""
    check(config)
    path = Path(str(config.run_dir))
    try:
        folder = server_app.open_folder(config, path)
    except (RunFolderError, CheckpointError) as error:
        raise ConfigError(str(error)) from error
    stop = Event()
    status = 0
    with capture.to_log(folder.log) as console:
        try:
            with _stopped_by_signals(stop), progress.make(config.progress, console) as view:
                _simulate(config, folder, view, stop)
        except (AllWorkersFailedError, RosterError, ray.SimulationError, ValueError) as error:
            stop.set()  # if the engine has failed, the ServerApp is still waiting for its workers
            status = _fail(console, f"error: {error} (details in {folder.log})", 1)
        except (RunStoppedError, KeyboardInterrupt):
            status = _fail(console, f"interrupted; {_resume_hint(path)}", INTERRUPTED)
    print(printable(str(path.resolve())))
    return status


def _simulate(config: Config, folder: RunFolder, view: progress.Progress, stop: Event) -> None:
    made, clients, engine = server_app.make_app(config, folder, view, stop), client_app.make_app(config), config.engine
    if isinstance(engine, groups.Ray):
        ray.run(made, clients, config.workers, num_cpus=engine.num_cpus, num_gpus=engine.num_gpus)
    else:
        grid = InlineGrid(clients, config.workers)
        made(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}))


@contextmanager
def _stopped_by_signals(stop: Event) -> Iterator[None]:
    """End the run with its processes on the first Ctrl-C (or SIGTERM); abort it on the second."""

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _resume_hint(path: Path) -> str:
    if checkpoint.exists(path / "checkpoint"):
        return f"to continue: python run_sim.py resume={path}"
    return "there is no checkpoint to continue from"


def _fail(console: Console, line: str, status: int) -> int:
    console.print(printable(line), style="bold red", soft_wrap=True, markup=False, highlight=False)
    return status


if __name__ == "__main__":
    sys.exit(cli.main(run, check=check))
