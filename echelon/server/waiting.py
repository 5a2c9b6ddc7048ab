"""What the start of a run waits for, in one line."""

from collections.abc import Mapping, Sequence

_MOST_NAMED = 4


def describe(num_workers: int, missing: Sequence[int], starting: Mapping[int, tuple[int | None, float]]) -> str:
    """Return how many workers are there, and what keeps the others.

    Parameters
    ----------
    num_workers : int
        Number of ranks N.
    missing : sequence of int
        Ranks that no node has claimed yet.
    starting : mapping of int to tuple
        For each node that has not answered: its rank, if that is known, and the seconds since it was sent a message.

    Examples
    --------
    >>> from echelon.server.waiting import describe
    >>> describe(4, [2], {7012: (2, 40.2)})
    '3 of 4 workers; worker 2 starting for 40 s'
    >>> describe(4, [0, 3], {})
    '2 of 4 workers; no SuperNode yet for ranks 0, 3'
    """
    longest = sorted(starting.items(), key=lambda item: -item[1][1])
    parts = [f"{num_workers - len(missing)} of {num_workers} workers"]
    parts += [f"{_name(node, rank)} starting for {seconds:.0f} s" for node, (rank, seconds) in longest[:_MOST_NAMED]]
    if len(longest) > _MOST_NAMED:
        parts.append(f"{len(longest) - _MOST_NAMED} others starting")
    known = {rank for rank, _ in starting.values()}
    absent = [rank for rank in missing if rank not in known]
    if None not in known and absent:  # a node whose rank is not known may have any of them
        parts.append(f"no SuperNode yet for {_ranks(absent)}")
    return "; ".join(parts)


def _name(node: int, rank: int | None) -> str:
    return f"node {node}" if rank is None else f"worker {rank}"


def _ranks(ranks: Sequence[int]) -> str:
    named = ", ".join(map(str, ranks[: 2 * _MOST_NAMED]))
    return f"rank{'s' if len(ranks) > 1 else ''} {named}{', ...' if len(ranks) > 2 * _MOST_NAMED else ''}"
