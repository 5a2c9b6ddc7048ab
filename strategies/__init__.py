"""Flower strategies that keep one model per worker; ``REGISTRY`` maps each choice of the configuration to its class."""

from echelon.core.mixing import Mean, Mixing
from echelon.core.partition import Partition
from echelon.core.sgd import SGD
from echelon.core.strategy import RoundNumbers
from echelon.core.work import FullBatch, NonBlocking
from echelon.server.exchange import RunStoppedError
from echelon.server.identity import Nodes
from echelon.server.nodes import Roster, RosterError
from echelon.server.options import Options
from echelon.server.replies import AutoNormLimit, NormLimit
from echelon.server.rounds import AllWorkersFailedError
from echelon.server.state import ServerState
from echelon.server.strategy import FlowerStrategy

from .al_dsgd import ALDSGD
from .all_reduce import AllReduce
from .d_psgd import DPSGD
from .fedbuff import FedBuff
from .fedcompass import FedCompass
from .gossip import Gossip
from .matcha import Matcha
from .over_selection import OverSelection

REGISTRY: dict[str, type[FlowerStrategy]] = {
    "all_reduce": AllReduce,
    "d_psgd": DPSGD,
    "matcha": Matcha,
    "al_dsgd": ALDSGD,
    "fedbuff": FedBuff,
    "fedcompass": FedCompass,
    "over_selection": OverSelection,
}

__all__ = [
    "ALDSGD",
    "DPSGD",
    "REGISTRY",
    "SGD",
    "AllReduce",
    "AllWorkersFailedError",
    "AutoNormLimit",
    "FedBuff",
    "FedCompass",
    "FlowerStrategy",
    "FullBatch",
    "Gossip",
    "Matcha",
    "Mean",
    "Mixing",
    "Nodes",
    "NonBlocking",
    "NormLimit",
    "Options",
    "OverSelection",
    "Partition",
    "Roster",
    "RosterError",
    "RoundNumbers",
    "RunStoppedError",
    "ServerState",
]
