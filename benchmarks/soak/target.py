"""What a soak disturbs."""

from abc import ABC, abstractmethod
from random import Random
from typing import Self


class Target(ABC):
    """Something that runs, the kinds of faults that it meets, and what is promised of it.

    Attributes
    ----------
    faults : tuple of str
        Kinds; they take turns.
    """

    faults: tuple[str, ...]

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *exception: object) -> None:
        """End all processes and remove all files."""

    @abstractmethod
    def suffer(self, fault: str, chance: Random) -> tuple[float, str]:
        """Do one fault; return its moment in seconds, and which promise was broken, or an empty string."""
