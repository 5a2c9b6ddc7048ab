"""A model as one array, for a worker that knows which values lie where in it: its name lists theirs.

Flower spends as much on each array as a small model's step takes, so named arrays go to foreign clients and mods only.
"""

from collections.abc import Iterable
from functools import lru_cache

SEPARATOR = "|"


def row_name(names: Iterable[str]) -> str:
    """Return the name of an array that holds the values of these names, one after the other.

    Examples
    --------
    >>> from echelon.protocol.rows import names_in, row_name
    >>> row_name(["weight", "bias"])
    '|weight|bias'
    >>> names_in("|weight|bias")
    ('weight', 'bias')
    """
    return "".join(f"{SEPARATOR}{name}" for name in names)


@lru_cache(maxsize=64)
def names_in(name: str) -> tuple[str, ...]:
    """Return the names of the values in an array with this name; none if it is no row."""
    return tuple(name[1:].split(SEPARATOR)) if name.startswith(SEPARATOR) else ()


def is_row(names: Iterable[str]) -> bool:
    """Return whether arrays with these names are a model as a row, and bytes beside it."""
    return any(name.startswith(SEPARATOR) for name in names)
