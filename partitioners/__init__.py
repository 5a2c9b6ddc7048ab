"""What data does each worker hold: partitioners that turn labels and capability ratios into index arrays."""

from partitioners.base import Partitioner
from partitioners.by_group import ByGroup
from partitioners.dirichlet import Dirichlet
from partitioners.file import FromFile
from partitioners.iid import Iid
from partitioners.registry import REGISTRY, build
from partitioners.shards import Shards
from partitioners.stratified import Stratified
from partitioners.submodular import SubmodularPartitioner

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
