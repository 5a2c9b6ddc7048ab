"""The Flower client side: the app, local training, clocks and fleets of simulated devices."""

from echelon.core.budget import Budget

from .app import WorkerApp, make_client_app, rank_of
from .fleet import Device, Fleet, Jitter

__all__ = ["Budget", "Device", "Fleet", "Jitter", "WorkerApp", "make_client_app", "rank_of"]
