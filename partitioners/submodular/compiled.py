"""Compilation of inner loops with numba, typed so that the callers' types survive."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` at its first call; the machine code is kept on disk and the GIL is released while it runs."""
    try:
        return cast("Function", numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # nowhere to write, as in a read-only container: it is compiled in every process
        return cast("Function", numba.njit(nogil=True, error_model="numpy")(function))
