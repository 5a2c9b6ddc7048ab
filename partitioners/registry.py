"""The table of partitioners: one row enrols a new one in the configuration and in the contract tests."""

from typing import Any

from .base import Partitioner
from .by_group import ByGroup
from .dirichlet import Dirichlet
from .file import FromFile
from .iid import Iid
from .shards import Shards
from .stratified import Stratified
from .submodular.partitioner import SubmodularPartitioner

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
