"""Flower's simulation engine, which runs the workers in Ray processes."""

import os

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation

_FLOWER_ERROR = "An error was encountered. Ending simulation."


class SimulationError(RuntimeError):
    """Flower's simulation engine failed, rather than one of its apps."""


def run(
    server_app: ServerApp, client_app: ClientApp, num_workers: int, *, num_cpus: float = 1.0, num_gpus: float = 0.0
) -> None:
    """Run two apps on simulated nodes until the ServerApp ends.

    Parameters
    ----------
    server_app, client_app
        The apps.
    num_workers : int
        Number of simulated nodes.
    num_cpus, num_gpus : float
        Resources per worker process; Ray starts as many processes as fit on the machine.

    Raises
    ------
    SimulationError
        If Ray does not start or fails.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        run_simulation(
            server_app,
            client_app,
            num_workers,
            backend_config={
                "init_args": {"logging_level": "error", "log_to_driver": False},
                # Flower passes these to Ray's actors. Without restarts a dead process would remain in the pool and fail
                # every message assigned to it.
                "client_resources": {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": -1},
            },
        )
    except RuntimeError as error:
        if error.__cause__ is None or str(error) != _FLOWER_ERROR:
            raise
        share = f"engine.num_cpus={num_cpus:g} and engine.num_gpus={num_gpus:g}"
        raise SimulationError(f"Ray could not run the workers with {share}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of the root cause of an exception."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def default_window(num_workers: int, num_cpus: float) -> int | None:
    """Return the limit on messages in flight: none, or with many workers four times the number of processes."""
    processes = int((os.cpu_count() or 1) / num_cpus) or 1
    return None if num_workers <= 4 * processes else 4 * processes
