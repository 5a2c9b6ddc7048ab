"""Compilation of inner loops with numba, typed so that a compiled function keeps its signature."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` at its first call; the machine code is cached on disk, and running it releases the GIL."""
    try:
        return cast("Function", numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # no writable cache, as in a read-only container: every process compiles
        return cast("Function", numba.njit(nogil=True, error_model="numpy")(function))
