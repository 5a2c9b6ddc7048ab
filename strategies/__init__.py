"""Flower strategies that keep one model per worker."""

from echelon.core.sgd import SGD
from echelon.core.work import FullBatch, NonBlocking
from echelon.server.exchange import RunStoppedError
from echelon.server.nodes import Roster, RosterError
from echelon.server.options import Options, Plan
from echelon.server.replies import NormLimit
from echelon.server.state import ServerState
from echelon.server.strategy import AllWorkersFailedError, Mixing, PerWorkerStrategy

from .al_dsgd import ALDSGD
from .all_reduce import AllReduce
from .d_psgd import DPSGD
from .fedbuff import FedBuff
from .matcha import Matcha
from .over_selection import OverSelection

__all__ = [
    "ALDSGD",
    "DPSGD",
    "SGD",
    "AllReduce",
    "AllWorkersFailedError",
    "FedBuff",
    "FullBatch",
    "Matcha",
    "Mixing",
    "NonBlocking",
    "NormLimit",
    "Options",
    "OverSelection",
    "PerWorkerStrategy",
    "Plan",
    "Roster",
    "RosterError",
    "RunStoppedError",
    "ServerState",
]
