"""The table of partitioners: one row enrols a new one in the configuration and in the contract tests."""

from typing import Any

from partitioners.base import Partitioner
from partitioners.by_group import ByGroup
from partitioners.dirichlet import Dirichlet
from partitioners.file import FromFile
from partitioners.iid import Iid
from partitioners.shards import Shards
from partitioners.stratified import Stratified
from partitioners.submodular import SubmodularPartitioner

REGISTRY: dict[str, type[Any]] = {
    "iid": Iid,
    "stratified": Stratified,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "by_group": ByGroup,
    "submodular": SubmodularPartitioner,
    "file": FromFile,
}


def build(name: str, **options: object) -> Partitioner:
    """Return the partitioner called `name` in the configuration, made with `options`.

    Raises
    ------
    ValueError
        If there is no such partitioner.  `local` is none: with it no plan is made, every worker brings its own data.
    """
    if name not in REGISTRY:
        raise ValueError(f"partitioner must be one of {', '.join(REGISTRY)}; got {name!r}")
    partitioner: Partitioner = REGISTRY[name](**options)
    return partitioner
