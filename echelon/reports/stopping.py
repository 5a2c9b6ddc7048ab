"""`stop_at`: a condition on a round's record that ends a run early."""

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
METRICS = ("consensus_accuracy", "consensus_loss", "train_loss", "virtual_seconds", "wall_seconds")


@dataclass(frozen=True)
class StopAt:
    """A condition such as ``consensus_accuracy>=0.9``.

    Examples
    --------
    >>> from echelon.reports.stopping import StopAt
    >>> StopAt.parse("train_loss<0.5").is_met({"round": 3, "train_loss": 0.4})
    True
    """

    metric: str
    comparison: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a condition.

        Raises
        ------
        ValueError
            If it is none.
        """
        found = re.fullmatch(r"\s*(\w+)\s*([<>]=?)\s*(\S+)\s*", text)
        try:
            if found is None or found[1] not in METRICS:
                raise ValueError
            return cls(found[1], found[2], float(found[3]))
        except ValueError:
            raise ValueError(
                f"stop_at must compare one of {', '.join(METRICS)} with a number by <, <=, > or >=, as in "
                f"consensus_accuracy>=0.9; got {text}"
            ) from None

    def is_met(self, record: Mapping[str, Any]) -> bool:
        """Return whether a round's record meets the condition; one without the metric does not."""
        found = record.get(self.metric)
        return found is not None and bool(_COMPARE[self.comparison](found, self.value))
