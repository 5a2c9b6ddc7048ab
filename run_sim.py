"""Compose the configuration, run its engine, write the run folder: ``python run_sim.py [key=value ...]``."""

import os

from echelon.persistent import signals

if __name__ == "__main__":
    signals.install()  # before the imports, which take seconds

# Read when flwr and ray are imported: a simulation reports to nobody, and small models are fastest on one thread.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import re
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event

from flwr.app import Context, RecordDict
from rich.console import Console

import client_app
import server_app
from app import peer, results, torchrun
from app.checks import check
from conf import Config, ConfigError, cli, groups
from echelon.core.printable import printable, wrapped
from echelon.engines import ray
from echelon.engines.inline import InlineGrid
from echelon.engines.torch import ProcessFailedError
from echelon.reports import capture, progress
from echelon.reports.run_folder import RunFolder, RunFolderError
from echelon.server import checkpoint
from echelon.server.checkpoint import CheckpointError
from strategies import AllWorkersFailedError, RosterError, RunStoppedError

INTERRUPTED = 130


def run(config: Config) -> int:
    """Do one run; return its exit status: 0, 1 if it failed, 130 or 143 if it was stopped by Ctrl-C or SIGTERM."""
    if torchrun.is_meant(config):
        return torchrun.run(config, check, client_app.make_app, _lead)
    check(config)
    return _lead(config, None)


def _lead(config: Config, team: torchrun.Team | None) -> int:
    """Open the run's folder and do the run, with the other processes of torchrun if that has started this one."""
    path = Path(str(config.run_dir))
    try:
        newest = peer.newest if isinstance(config.engine, groups.Torch) else None
        folder = server_app.open_folder(config, path, newest if team is None else team.newest)
    except (RunFolderError, CheckpointError) as error:
        raise ConfigError(str(error)) from error
    stop = Event()
    try:
        with folder, capture.to_log(folder.log) as console:
            say = console.print if console.is_terminal else None
            with signals.graceful(stop, lambda: _interrupted(config, path), say):
                status = _run(config, folder, console, stop, team)
            _print(console, str(path.resolve()))
            if (stopped := signals.status()) is not None:
                signals.leave(stopped)  # within the capture: Ray, still starting, would write to the terminal
            return status
    except OSError as error:  # of the log; those of the run are reported in `_run`
        raise ConfigError(f"{folder.log}: cannot be written: {error.strerror}") from error


def _run(config: Config, folder: RunFolder, console: Console, stop: Event, team: torchrun.Team | None) -> int:
    """Do the run and say how it ended; return its exit status."""
    try:
        with progress.make(config.progress, console) as view:
            _simulate(config, folder, view, stop, partial(_print, console), team)
        failure = None
    except (RunStoppedError, KeyboardInterrupt):
        return _fail(console, _interrupted(config, folder.path), signals.status() or INTERRUPTED)
    except ProcessFailedError as error:
        failure = f"{error}; {_resume_hint(config, folder.path)}"
    except (AllWorkersFailedError, RosterError, ray.SimulationError, ValueError) as error:
        stop.set()  # if the engine has failed, the ServerApp is still waiting for its workers
        failure = str(error)
    except OSError as error:
        stop.set()
        traceback.print_exc()
        failure = f"{error}; {_resume_hint(config, folder.path)}"
    if (stopped := signals.status()) is not None:  # a signal to all processes makes workers fail, too
        return _fail(console, _interrupted(config, folder.path), stopped)
    return 0 if failure is None else _fail(console, f"error: {failure} (details in {folder.log})", 1)


def _simulate(
    config: Config,
    folder: RunFolder,
    view: progress.Progress,
    stop: Event,
    say: Callable[[str], None],
    team: torchrun.Team | None,
) -> None:
    engine, make_clients = config.engine, client_app.make_app
    if isinstance(engine, groups.Torch):
        launch = None if team is None else team.lead(stop, make_clients)
        results.show(folder, view, peer.run(config, folder, view, stop, make_clients, launch))
        return
    made, clients = server_app.make_app(config, folder, view, stop), client_app.make_app(config)
    if isinstance(engine, groups.Ray):
        ray.run(
            *(made, clients, config.workers),
            num_cpus=engine.num_cpus,
            num_gpus=engine.num_gpus,
            address=engine.address,
            stop=stop,
            say=say,
        )
    else:
        grid = InlineGrid(clients, config.workers)
        made(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}))


def _resume_hint(config: Config, path: Path) -> str:
    program = "torchrun ... run_sim.py" if torchrun.is_meant(config) else "python run_sim.py"
    plain = re.fullmatch(r"[\w/.:+-]+", str(path))
    command = f"{program} resume={path}" if plain else f"{program} \"resume='{path}'\""
    if checkpoint.exists(path / "checkpoint"):
        return f"to continue: {command}"
    again = f"; to start again: {command}" if config.checkpoint_every else " (checkpoint_every=0)"
    return f"there is no checkpoint to continue from{again}"


def _interrupted(config: Config, path: Path) -> str:
    return f"interrupted; {_resume_hint(config, path)}"


def _fail(console: Console, line: str, status: int) -> int:
    _print(console, line, style="bold red")
    return status


def _print(console: Console, line: str, style: str | None = None) -> None:
    text = wrapped(printable(line), console.width) if console.is_terminal else printable(line)
    console.print(text, style=style, soft_wrap=True, markup=False, emoji=False, highlight=False)


if __name__ == "__main__":
    ended = cli.main(run, check=check)
    if (stopped := signals.status()) is not None:
        signals.leave(stopped)
    sys.exit(ended)
