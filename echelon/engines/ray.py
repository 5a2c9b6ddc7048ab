"""Flower's simulation engine, which runs the workers in Ray processes."""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from threading import Event, Thread
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from echelon.engines.bundling import BundlingGrid
from echelon.persistent import signals
from echelon.persistent.watchdog import watched
from echelon.server.exchange import RunStoppedError

_POLL_SECONDS = 0.1
_ENGINE_STOP_SECONDS = 3.0
_SLOW_SECONDS = 15.0
_ANSWER_SECONDS = 5.0
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
    address: str | None = None,
    stop: Event | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run two apps on simulated nodes until the ServerApp ends; call it in the main thread.

    Flower and Ray run in another thread, so that this one answers signals at any time, also while Ray starts. The
    handlers are set again all the time: Ray's core aborts the process on SIGTERM.

    Parameters
    ----------
    server_app, client_app
        The apps. If the ClientApp is one of :func:`clients.make_client_app` with ``batched``, a process gets the train
        messages of several workers as one.
    num_workers : int
        Number of simulated nodes.
    num_cpus, num_gpus : float
        Resources per worker process; Ray starts as many processes as fit on the machine, or into the cluster.
    address : str, optional
        Of a running Ray cluster, ``host:port``, whose machines have this code and its environment under the same paths.
    stop : threading.Event, optional
        The event that ends the ServerApp. Flower would go on until Ray has started and its workers have finished.
    say : callable
        Takes a line for the user, if Ray is slow to start.

    Raises
    ------
    SimulationError
        If Ray does not start or fails, or nothing answers at the address.
    RunStoppedError
        If ``stop`` is set and the ServerApp has ended, but not the engine: the caller ends the process.
    """
    from flwr.simulation import run_simulation  # here, because it is slow to import and other engines do not need it

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    backend: dict[str, Any] = {
        # Without an address Ray joins whatever cluster this machine has started last, and waits for one that is gone.
        "init_args": {"logging_level": "error", "log_to_driver": False, "address": "local"},
        # Flower passes these to Ray's actors. Without restarts a dead process would remain in the pool and fail every
        # message assigned to it.
        "client_resources": {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": -1},
    }
    ended = Event()
    wrap = partial(_bundling, client_app, num_cpus, num_gpus)
    simulation: Future[None] = Future()

    def simulate() -> None:
        try:
            if address is not None:
                _join(address)
            run_simulation(_announcing(server_app, ended, wrap), client_app, num_workers, backend_config=backend)
            simulation.set_result(None)
        except BaseException as error:
            simulation.set_exception(error)

    # Killed, this process would leave some of Ray's behind. A signal to all of them would end the object store, too; a
    # process that uses the store then is ended by Ray at once, with status 1.
    with watched(), signals.own_groups():
        Thread(target=simulate, daemon=True).start()
        slow_after = time.monotonic() + _SLOW_SECONDS
        while not wait([simulation], _POLL_SECONDS).done:
            signals.reinstall()
            if is_up():
                slow_after = float("inf")
            elif time.monotonic() > slow_after:
                say(f"Ray has not started after {_SLOW_SECONDS:g} s; engine=inline does without it")
                slow_after = float("inf")
            stopped = stop is not None and stop.is_set() and ended.is_set()
            if stopped and not wait([simulation], _ENGINE_STOP_SECONDS).done:
                raise RunStoppedError("the run was stopped")
    try:
        simulation.result()
    except RuntimeError as error:
        if error.__cause__ is None or str(error) != _FLOWER_ERROR:
            raise
        share = f"engine.num_cpus={num_cpus:g} and engine.num_gpus={num_gpus:g}"
        raise SimulationError(
            f"Ray could not run the workers with {share}: {_reason(error)}; engine=inline does without Ray"
        ) from error


def is_up() -> bool:
    """Return whether this process is connected to Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


def _join(address: str) -> None:
    """Connect this process to a running cluster; Flower then starts no Ray of its own."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise SimulationError(
            f"engine.address={address}: no Ray cluster answers there ({error}); start one with ray start --head, or "
            "use engine=inline"
        ) from error
    import ray

    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, runtime_env=environment)


def _announcing(server_app: ServerApp, ended: Event, wrap: Callable[[Grid], Grid]) -> ServerApp:
    """Return a ServerApp that runs on another grid, and sets an event when it has ended."""
    announcing = ServerApp()

    @announcing.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            server_app(wrap(grid), context)
        finally:
            ended.set()

    return announcing


def _bundling(client_app: ClientApp, num_cpus: float, num_gpus: float, grid: Grid) -> Grid:
    """Return the grid on which the ServerApp runs."""
    bundled = getattr(client_app, "bundled", False)
    if not bundled:
        return grid
    return BundlingGrid(grid, partial(_processes, num_cpus, num_gpus), bundled)


def _reason(error: BaseException) -> str:
    """Return the first line of the root cause of an exception."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def default_window(num_workers: int, num_cpus: float) -> int | None:
    """Return the limit on messages in flight: none, or with many workers four times the number of processes.

    Once this process is connected to Ray, those are the processes that fit into its cluster.
    """
    processes = _processes(num_cpus, 0.0)
    return None if num_workers <= 4 * processes else 4 * processes


def _processes(num_cpus: float, num_gpus: float) -> int:
    """Return how many processes of workers fit on this machine or, once Ray has started, into its cluster."""
    if not is_up():
        return int((os.cpu_count() or 1) / num_cpus) or 1
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    fitting = resources.get("CPU", 1.0) / num_cpus
    if num_gpus:
        fitting = min(fitting, resources.get("GPU", 0.0) / num_gpus)
    return int(fitting) or 1
