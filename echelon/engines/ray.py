"""Flower's simulation engine, which runs the workers in Ray processes."""

import os
from concurrent.futures import Future, wait
from threading import Event, Thread
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from echelon.persistent import signals
from echelon.persistent.watchdog import watched
from echelon.server.exchange import RunStoppedError

_POLL_SECONDS = 0.1
_ENGINE_STOP_SECONDS = 3.0
_FLOWER_ERROR = "An error was encountered. Ending simulation."


class SimulationError(RuntimeError):
    """Flower's simulation engine failed, rather than one of its apps."""


def run(
    server_app: ServerApp,
    client_app: ClientApp,
    num_workers: int,
    *,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    stop: Event | None = None,
) -> None:
    """Run two apps on simulated nodes until the ServerApp ends; call it in the main thread.

    Flower and Ray run in another thread, so that this one answers signals at any time, also while Ray starts. The
    handlers are set again all the time: Ray's core aborts the process on SIGTERM.

    Parameters
    ----------
    server_app, client_app
        The apps.
    num_workers : int
        Number of simulated nodes.
    num_cpus, num_gpus : float
        Resources per worker process; Ray starts as many processes as fit on the machine.
    stop : threading.Event, optional
        The event that ends the ServerApp. Flower would go on until Ray has started and its workers have finished.

    Raises
    ------
    SimulationError
        If Ray does not start or fails.
    RunStoppedError
        If ``stop`` is set and the ServerApp has ended, but not the engine: the caller ends the process.
    """
    from flwr.simulation import run_simulation  # here, because it is slow to import and other engines do not need it

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    backend: dict[str, Any] = {
        "init_args": {"logging_level": "error", "log_to_driver": False},
        # Flower passes these to Ray's actors. Without restarts a dead process would remain in the pool and fail every
        # message assigned to it.
        "client_resources": {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": -1},
    }
    ended = Event()
    simulation: Future[None] = Future()

    def simulate() -> None:
        try:
            run_simulation(_announcing(server_app, ended), client_app, num_workers, backend_config=backend)
            simulation.set_result(None)
        except BaseException as error:
            simulation.set_exception(error)

    # Killed, this process would leave some of Ray's behind. A signal to all of them would end the object store, too; a
    # process that uses the store then is ended by Ray at once, with status 1.
    with watched(), signals.own_groups():
        Thread(target=simulate, daemon=True).start()
        while not wait([simulation], _POLL_SECONDS).done:
            signals.reinstall()
            stopped = stop is not None and stop.is_set() and ended.is_set()
            if stopped and not wait([simulation], _ENGINE_STOP_SECONDS).done:
                raise RunStoppedError("the run was stopped")
    try:
        simulation.result()
    except RuntimeError as error:
        if error.__cause__ is None or str(error) != _FLOWER_ERROR:
            raise
        share = f"engine.num_cpus={num_cpus:g} and engine.num_gpus={num_gpus:g}"
        raise SimulationError(f"Ray could not run the workers with {share}: {_reason(error)}") from error


def _announcing(server_app: ServerApp, ended: Event) -> ServerApp:
    """Return a ServerApp that sets an event when it has ended."""
    announcing = ServerApp()

    @announcing.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            server_app(grid, context)
        finally:
            ended.set()

    return announcing


def _reason(error: BaseException) -> str:
    """Return the first line of the root cause of an exception."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def default_window(num_workers: int, num_cpus: float) -> int | None:
    """Return the limit on messages in flight: none, or with many workers four times the number of processes."""
    processes = int((os.cpu_count() or 1) / num_cpus) or 1
    return None if num_workers <= 4 * processes else 4 * processes
