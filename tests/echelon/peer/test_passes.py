"""A loader's mini-batches across rounds."""

import pytest

from echelon.peer.passes import Passes


class Sampler:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, number: int) -> None:
        self.epochs.append(number)


class Loader(list[int]):
    sampler = Sampler()


def take(passes: Passes[int], count: int) -> list[int]:
    """Use so many mini-batches; look at one more, as a budget does, and leave it."""
    used: list[int] = []
    for batch in passes:
        if len(used) == count:
            break
        used.append(batch)
    return used


def test_every_round_goes_on_where_the_last_one_stopped() -> None:
    passes = Passes([1, 2, 3, 4, 5])
    assert [take(passes, count) for count in (2, 0, 1, 4, 5)] == [[1, 2], [], [3], [4, 5, 1, 2], [3, 4, 5, 1, 2]]


def test_a_sampler_is_told_the_pass() -> None:
    loader = Loader([1, 2])
    take(Passes(loader), 5)
    assert loader.sampler.epochs == [0, 1, 2]


def test_no_data() -> None:
    with pytest.raises(ValueError, match="the loader has no mini-batches: this worker has no data"):
        take(Passes([]), 1)
