"""A loader's mini-batches, pass after pass; one that a round had no time for comes first in the next round."""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Passes(Generic[T]):
    """An endless iterable over a loader that rounds take mini-batches from.

    Parameters
    ----------
    loader : iterable
        Of mini-batches; it starts again when it ends. If its sampler has ``set_epoch``, that is called with the number
        of every pass.

    Examples
    --------
    >>> from echelon.peer.passes import Passes
    >>> passes = Passes(["a", "b"])
    >>> for batch in passes:
    ...     if batch == "b":
    ...         break  # not used
    >>> next(iter(passes))
    'b'
    """

    def __init__(self, loader: Iterable[T]) -> None:
        self.loader = loader
        self._stream = self._all()
        self._unused: list[T] = []

    def __iter__(self) -> Iterator[T]:
        """Yield mini-batches; one counts as used when the next is asked for."""
        while True:
            if not self._unused:
                self._unused = [next(self._stream)]
            yield self._unused[0]
            self._unused = []

    def _all(self) -> Iterator[T]:
        number = 0
        while True:
            if (set_epoch := getattr(getattr(self.loader, "sampler", None), "set_epoch", None)) is not None:
                set_epoch(number)
            empty = True
            for batch in self.loader:
                empty = False
                yield batch
            if empty:
                raise ValueError("the loader has no mini-batches: this worker has no data to train on")
            number += 1
