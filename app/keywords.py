"""What a constructor is called with: the keys of a choice, and whatever else it takes."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any


def keywords(
    make: Callable[..., Any],
    chosen: object,
    group: type,
    offered: Mapping[str, Callable[[], Any]],
    leave_out: Collection[str] = (),
) -> dict[str, Any]:
    """Return the arguments for a choice's class, by name.

    Parameters
    ----------
    make : callable
        The class.
    chosen : dataclass instance
        The choice's section of the configuration.
    group : dataclass
        Its base: the keys that all choices of the group share, which are no arguments.
    offered : mapping of str to callable
        Further values by parameter name, each computed only for a class that takes it.
    leave_out : collection of str
        Keys of the choice that are no arguments.
    """
    shared = {field.name for field in fields(group)}
    keys = {name: value for name, value in vars(chosen).items() if name not in shared and name not in leave_out}
    parameters = inspect.signature(make).parameters
    return keys | {name: value() for name, value in offered.items() if name in parameters}
