"""The Flower client side: the app, local training, clocks and fleets of simulated devices."""

from .app import WorkerApp, make_client_app, rank_of

__all__ = ["WorkerApp", "make_client_app", "rank_of"]
