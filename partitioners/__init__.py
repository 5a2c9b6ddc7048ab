"""Which samples each worker holds: partitioners that turn labels and capability ratios into index arrays.

One row in `REGISTRY` makes a partitioner a choice of the configuration and puts it under the contract tests.
"""

from .base import Partitioner
from .by_group import ByGroupPartitioner
from .dirichlet import DirichletPartitioner
from .file import FilePartitioner
from .iid import IidPartitioner
from .shards import ShardsPartitioner
from .stratified import StratifiedPartitioner
from .submodular.partitioner import SubmodularPartitioner

REGISTRY: dict[str, type[Partitioner]] = {
    "iid": IidPartitioner,
    "stratified": StratifiedPartitioner,
    "dirichlet": DirichletPartitioner,
    "shards": ShardsPartitioner,
    "by_group": ByGroupPartitioner,
    "submodular": SubmodularPartitioner,
    "file": FilePartitioner,
}

__all__ = [
    "REGISTRY",
    "ByGroupPartitioner",
    "DirichletPartitioner",
    "FilePartitioner",
    "IidPartitioner",
    "Partitioner",
    "ShardsPartitioner",
    "StratifiedPartitioner",
    "SubmodularPartitioner",
]
