"""Flower's simulation engine: the workers run in processes of Ray."""

import os

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation

_FLOWER_SAYS = "An error was encountered. Ending simulation."


class SimulationError(RuntimeError):
    """Flower's simulation engine has failed, not the apps that it runs."""


def run(
    server_app: ServerApp, client_app: ClientApp, num_workers: int, *, num_cpus: float = 1.0, num_gpus: float = 0.0
) -> None:
    """Run two apps over simulated nodes, to the end of the ServerApp.

    Parameters
    ----------
    server_app, client_app
        The apps.
    num_workers : int
        Simulated nodes.
    num_cpus, num_gpus : float
        Share of the machine that each process of workers takes; there are as many processes as fit.

    Raises
    ------
    SimulationError
        If Ray does not start, or breaks down.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        run_simulation(
            server_app,
            client_app,
            num_workers,
            backend_config={
                "init_args": {"logging_level": "error", "log_to_driver": False},
                # Flower hands these on to Ray's actors. Without restarts a process that died would stay in the pool and
                # fail every message that it is given.
                "client_resources": {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": -1},
            },
        )
    except RuntimeError as error:
        if error.__cause__ is None or str(error) != _FLOWER_SAYS:
            raise
        share = f"engine.num_cpus={num_cpus:g} and engine.num_gpus={num_gpus:g}"
        raise SimulationError(f"Ray could not run the workers with {share}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of what was at the bottom of an exception."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def default_window(num_workers: int, num_cpus: float) -> int | None:
    """Return the messages to have under way: all, or with many workers four times the processes."""
    processes = int((os.cpu_count() or 1) / num_cpus) or 1
    return None if num_workers <= 4 * processes else 4 * processes
