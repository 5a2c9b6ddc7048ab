"""Flower strategies that keep one model per worker."""

from strategies.al_dsgd import ALDSGD
from strategies.all_reduce import AllReduce
from strategies.base import AllWorkersFailedError, Mixing, PerWorkerStrategy
from strategies.d_psgd import DPSGD
from strategies.exchange import RunStoppedError
from strategies.fedbuff import FedBuff
from strategies.matcha import Matcha
from strategies.options import Options, Plan
from strategies.over_selection import OverSelection
from strategies.replies import NormLimit
from strategies.roster import Roster, RosterError
from strategies.sgd import SGD
from strategies.state import ServerState
from strategies.work import FullBatch, NonBlocking

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
