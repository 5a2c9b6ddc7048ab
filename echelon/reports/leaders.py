"""Leaders and their followers in a round."""

from collections import Counter
from collections.abc import Mapping
from typing import Any


def followers(record: Mapping[str, Any]) -> tuple[Counter[int], Counter[int]]:
    """Return the number of followers of each rank by loss and by degree.

    Parameters
    ----------
    record : mapping
        A round, as in ``metrics.jsonl``: ``leaders_best[i]`` and ``leaders_degree[i]`` are the leaders of worker i.
        A worker that leads itself does not count as a follower.
    """
    best, degree = (
        Counter(leader for rank, leader in enumerate(record.get(key) or ()) if leader is not None and leader != rank)
        for key in ("leaders_best", "leaders_degree")
    )
    return best, degree
