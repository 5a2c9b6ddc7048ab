"""One line for what fails in a user's data, model or functions: which of them, on what, and what is wanted."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_MOST_CHARACTERS = 300


class UserCodeError(ValueError):
    """What the user has passed cannot be used; the message names it and says what is wanted."""


@contextmanager
def naming(what: str, *batch: Any) -> Iterator[None]:
    """Name a user's function, and the mini-batch that it got, in an error that it raises.

    Parameters
    ----------
    what : str
        The function and how it is called, such as ``loss(model, batch)``.
    *batch : object
        The mini-batch, if it got one.

    Raises
    ------
    UserCodeError
        In place of any other error.
    """
    try:
        yield
    except UserCodeError:
        raise
    except Exception as error:
        on = f" on a mini-batch of {described(batch[0])}" if batch else ""
        raise UserCodeError(f"{what} has failed{on}: {type(error).__name__}: {_last_words(error)}") from error


@contextmanager
def of_worker(rank: int) -> Iterator[None]:
    """Name the worker in a UserCodeError of the body."""
    try:
        yield
    except UserCodeError as error:
        raise UserCodeError(f"worker {rank}: {error}") from error


def described(batch: Any) -> str:
    """Return types and shapes of a mini-batch's tensors, in its tuples and dicts."""
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{name}: {described(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, tuple | list):
        return "(" + ", ".join(map(described, batch)) + ")"
    if hasattr(batch, "dtype") and hasattr(batch, "shape"):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    return type(batch).__name__


def check_takes(function: Any, name: str, *arguments: str) -> None:
    """Check that a user's function can be called with these arguments.

    Raises
    ------
    TypeError
        If it cannot.
    """
    named = f"({', '.join(arguments)})" if arguments else "no arguments"
    wanted = f"{name} must be a function of {named}"
    if not callable(function):
        raise TypeError(f"{wanted}; got {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function in C, which has none
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise TypeError(f"{wanted}; got one of {signature}") from None


def _last_words(error: Exception) -> str:
    """Return an error's message in one line; of one with a traceback in it (a DataLoader's worker process), the end."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[-1] if any("Traceback" in line for line in lines) else " ".join(" ".join(lines).split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
