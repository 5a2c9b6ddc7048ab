"""What data does each worker hold: partitioners that turn labels and capability ratios into index arrays."""

from .base import Partitioner
from .by_group import ByGroup
from .dirichlet import Dirichlet
from .file import FromFile
from .iid import Iid
from .registry import REGISTRY, build
from .shards import Shards
from .stratified import Stratified
from .submodular.partitioner import SubmodularPartitioner

__all__ = [
    "REGISTRY",
    "ByGroup",
    "Dirichlet",
    "FromFile",
    "Iid",
    "Partitioner",
    "Shards",
    "Stratified",
    "SubmodularPartitioner",
    "build",
]
