"""How the schema declares a key: its type, description, unit and allowed values."""

import inspect
import types
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeVar, Union, dataclass_transform, get_args, get_origin

from omegaconf import MISSING

T = TypeVar("T")


@dataclass(frozen=True)
class Interval:
    """An interval in mathematical notation: ``[0, 1)`` contains 0 but not 1; ``[1, inf)`` is unbounded above."""

    low: float
    high: float
    closed_low: bool
    closed_high: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an interval such as ``(0, 1]``."""
        low, high = text[1:-1].split(",")
        return cls(float(low), float(high), text[0] == "[", text[-1] == "]")

    def __contains__(self, value: float) -> bool:
        above = self.low <= value if self.closed_low else self.low < value
        below = value <= self.high if self.closed_high else value < self.high
        return above and below

    def __str__(self) -> str:
        low = f"{self.low:g}"
        if self.high == float("inf"):
            return f"at least {low}" if self.closed_low else f"above {low}"
        return f"in {'[' if self.closed_low else '('}{low}, {self.high:g}{']' if self.closed_high else ')'}"


@dataclass(frozen=True)
class Key:
    """Metadata of a key beyond its type.

    Attributes
    ----------
    text : str
        Description for the reference.
    unit : str
        Unit of a number; empty for counts and fractions.
    within : Interval, optional
        Allowed numbers; for a list, of its elements.
    choices : tuple of str
        Allowed strings.
    or_number, or_bool : bool
        Whether a number, or true and false, are allowed beside the strings.
    or_null : bool
        Whether null is allowed beside the strings.
    """

    text: str
    unit: str = ""
    within: Interval | None = None
    choices: tuple[str, ...] = ()
    or_number: bool = False
    or_bool: bool = False
    or_null: bool = False

    @property
    def words(self) -> str:
        """The allowed values that are no numbers, as they are written."""
        return ", ".join((*self.choices, *(("true", "false") if self.or_bool else ())))


def key(text: str, within: str = "", *, unit: str = "") -> Any:
    """Declare a key; its default value is in the YAML file of its group.

    Parameters
    ----------
    text : str
        Description.
    within : str
        Interval of allowed numbers, such as ``[0, 1)``.
    unit : str
        Unit of the number.
    """
    return field(default=MISSING, metadata={"key": Key(text, unit, Interval.parse(within) if within else None)})


@dataclass_transform(field_specifiers=(key,))
def schema(cls: type[T]) -> type[T]:
    """Turn ``cls`` into a dataclass that OmegaConf accepts.

    OmegaConf supports neither ``Literal`` nor unions with lists: these become ``str`` and ``Any``, and
    :func:`conf.validation.validate` checks the values instead.
    """
    annotations: dict[str, Any] = {}
    for name, hint in inspect.get_annotations(cls).items():
        declared, words = cls.__dict__[name], _words(hint)
        if words:
            known: Key = declared.metadata["key"]
            parts = get_args(hint)
            beside: dict[str, Any] = {
                "or_number": float in parts,
                "or_bool": bool in parts,
                "or_null": types.NoneType in parts,
            }
            known = replace(known, choices=words, **beside)
            declared.metadata = types.MappingProxyType({"key": known})
        annotations[name] = _supported(hint)
    cls.__annotations__ = annotations
    return dataclass(cls)


def is_union(hint: Any) -> bool:
    """Return whether an annotation allows several types."""
    return get_origin(hint) in (Union, types.UnionType)


def _words(hint: Any) -> tuple[str, ...]:
    """Return the strings of the ``Literal`` in an annotation, or an empty tuple."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((words for part in get_args(hint) if (words := _words(part))), ())


def _supported(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return str
    if is_union(hint) and any(get_origin(part) in (list, Literal) for part in get_args(hint)):
        return Any
    return hint
