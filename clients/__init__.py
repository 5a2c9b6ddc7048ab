"""The Flower client side: messages, local training, clocks, fleets of simulated devices, warm workers."""

from .app import WorkerApp, make_client_app, rank_of

__all__ = ["WorkerApp", "make_client_app", "rank_of"]
