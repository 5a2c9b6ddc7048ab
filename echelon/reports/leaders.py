"""Who leads whom in a round."""

from collections import Counter
from collections.abc import Mapping
from typing import Any


def followers(record: Mapping[str, Any]) -> tuple[Counter[int], Counter[int]]:
    """Return how many others follow each rank for its low loss, and for its high degree.

    Parameters
    ----------
    record : mapping
        A round, as in ``metrics.jsonl``: ``leaders_best[i]`` and ``leaders_degree[i]`` are the ranks that worker i
        follows. A worker that is its own leader leads nobody by that.
    """
    best, degree = (
        Counter(leader for rank, leader in enumerate(record.get(key) or ()) if leader is not None and leader != rank)
        for key in ("leaders_best", "leaders_degree")
    )
    return best, degree
