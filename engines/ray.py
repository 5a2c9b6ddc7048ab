"""Flower's simulation engine: the workers run in processes of Ray."""

import os

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation


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
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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


def default_window(num_workers: int, num_cpus: float) -> int | None:
    """Return the messages to have under way: all, or with many workers four times the processes."""
    processes = int((os.cpu_count() or 1) / num_cpus) or 1
    return None if num_workers <= 4 * processes else 4 * processes
