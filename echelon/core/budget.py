"""A round's budget for a training loop of one's own: which mini-batches to compute, and what to report of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, Generic, TypeVar

from echelon.core.clocks import WallClock

T = TypeVar("T")


class Budget:
    """What a worker may compute in a round, by the instructions that came with its train message.

    Under a server that sends none (Flower's FedAvg) it is one pass over the data, without a time limit.

    Parameters
    ----------
    instructions : mapping
        The ``config`` record of the train message.
    is_over : callable, optional
        Asked before every mini-batch beyond the least number whether the round is over; by default only time ends it.

    Examples
    --------
    In a ClientApp's train function, where ``message`` and a ``loader`` of (inputs, labels) are at hand:

    >>> from echelon.core.budget import Budget
    >>> loader = [([0.1, 0.2], [0, 1])] * 6
    >>> budget = Budget({"target_samples": 8, "budget_seconds": 60.0})
    >>> for inputs, labels in budget.minibatches(loader):
    ...     pass  # a step of the optimiser
    >>> report = budget.report()
    >>> report["samples"], report["minibatches"]
    (8, 4)
    """

    def __init__(self, instructions: Mapping[str, Any], is_over: Callable[[], bool] = lambda: False) -> None:
        steps, batch = instructions.get("local_steps", 1), instructions.get("batch_size", 0)
        self._target = int(instructions.get("target_samples", 0) or steps * batch)
        self._seconds = float(instructions.get("budget_seconds", math.inf))
        self._least = int(instructions.get("min_minibatches", 1))
        per_minibatch = float(instructions.get("seconds_per_minibatch", math.nan))
        self._minibatch_size = int(instructions.get("minibatch_size", 0))
        self._per_sample = per_minibatch / max(self._minibatch_size, 1)
        self._clock = WallClock(self._per_sample)
        self._is_over = is_over
        self._samples = self._minibatches = 0
        self._stopped = False

    def minibatches(self, loader: Iterable[T]) -> "Minibatches[T]":
        """Return the mini-batches up to the round's target, or up to the last that ends within the budget.

        Parameters
        ----------
        loader : iterable
            Of mini-batches, with as many samples as the first tensor in each has rows. It starts again when it ends,
            until the target is reached; without a target it is passed over once.
        """
        return Minibatches(loader, self._hand_out)

    def _hand_out(self, loader: Iterable[T]) -> Iterator[T]:
        if not self._minibatches:
            self._clock = WallClock(self._per_sample)
        while True:
            before = self._minibatches
            for batch in loader:
                size = num_samples(batch)
                if not self._goes_on(size):
                    return
                yield batch
                self._clock.tick(size)
                self._samples, self._minibatches = self._samples + size, self._minibatches + 1
            if self._minibatches == before:
                raise ValueError("the loader has no mini-batches: this worker has no data to train on")
            if not self._target:
                return

    @property
    def is_finished(self) -> bool:
        """Whether the round's target is reached."""
        return bool(self._target) and self._samples >= self._target

    def report(self) -> dict[str, int | float]:
        """Return what to add to the metrics of the reply: samples, mini-batches of the run's size, and seconds."""
        left = max(self._seconds - self._clock.seconds, 0.0) if self._stopped and math.isfinite(self._seconds) else 0.0
        samples = min(self._samples, self._target) if self._target else self._samples
        return {
            "samples": samples,
            "minibatches": -(-samples // self._minibatch_size) if self._minibatch_size else self._minibatches,
            "seconds": self._clock.seconds,
            "dropped_seconds": left,
        }

    def _goes_on(self, size: int) -> bool:
        """Return whether to compute a mini-batch of ``size`` samples."""
        if self.is_finished:
            return False
        may_stop = self._minibatches >= self._least
        self._stopped = may_stop and (not self._clock.fits(size, self._seconds) or self._is_over())
        return not self._stopped


class Minibatches(Generic[T]):
    """A round's mini-batches, in place of the loader in a training loop.

    A loop of several epochs passes over them again: nothing is left then if the round has a target.

    Parameters
    ----------
    loader : iterable
        Of mini-batches.
    hand_out : callable
        (loader) -> iterator over those that the budget allows.
    """

    def __init__(self, loader: Iterable[T], hand_out: Callable[[Iterable[T]], Iterator[T]]) -> None:
        self._loader, self._hand_out = loader, hand_out
        self._length = 0

    def __iter__(self) -> Iterator[T]:
        """Yield mini-batches.

        Raises
        ------
        ValueError
            If the loader is empty.
        """
        count = 0
        for batch in self._hand_out(self._loader):
            count += 1
            yield batch
        self._length = count or self._length

    def __len__(self) -> int:
        """Return the mini-batches of the last pass that had any; before it, those of the loader."""
        if self._length or not isinstance(self._loader, Sized):
            return self._length
        return len(self._loader)


def num_samples(batch: Any) -> int:
    """Return the rows of the first tensor in a mini-batch, which may be a tuple or a dict.

    Raises
    ------
    ValueError
        If there is none.
    """
    if isinstance(batch, Mapping):
        return num_samples(tuple(batch.values()))
    if isinstance(batch, tuple | list) and batch and not isinstance(batch[0], int | float | str):
        return num_samples(batch[0])
    if isinstance(batch, Sized) and not isinstance(batch, str | bytes):
        return len(batch)
    raise ValueError(f"a mini-batch must have tensors with one row per sample; got {type(batch).__name__}")
