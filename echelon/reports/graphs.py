"""The graphs of a run: each is a line of ``graphs.jsonl``, and records refer to it by its number, from 0.

A round of 1000 workers has thousands of edges, and most rounds have those of an earlier one.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from echelon.core.printable import printable
from echelon.reports.lines import line

Record = dict[str, Any]
Edges = list[list[int]]
NAME = "graphs.jsonl"
COMPLETE = "complete"


class Graphs:
    """The distinct graphs of a run, numbered as they appear."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}  # by digest, since a run may have as many graphs as rounds

    def shorten(self, record: Mapping[str, Any]) -> tuple[Record, str]:
        r"""Return a record that refers to its graph, and the new line of the file; empty if the graph is in it already.

        Examples
        --------
        >>> from echelon.reports.graphs import Graphs
        >>> graphs = Graphs()
        >>> graphs.shorten({"round": 1, "edges": [[0, 1]]})
        ({'round': 1, 'graph': 0}, '{"graph":0,"edges":[[0,1]]}\n')
        >>> graphs.shorten({"round": 2, "edges": [[0, 1]]})
        ({'round': 2, 'graph': 0}, '')
        >>> graphs.shorten({"round": 3, "edges": "complete"})
        ({'round': 3, 'edges': 'complete'}, '')
        """
        edges = record.get("edges")
        if edges is None or edges == COMPLETE:
            return dict(record), ""
        ordered = sorted([min(edge), max(edge)] for edge in edges)
        key = blake2b(line({"edges": ordered}).encode()).digest()
        known = key in self._numbers
        number = self._numbers.setdefault(key, len(self._numbers))
        short = {("graph" if name == "edges" else name): value for name, value in record.items()} | {"graph": number}
        return short, "" if known else line({"graph": number, "edges": ordered})


def read(lines: Iterable[bytes]) -> list[Edges | None]:
    """Return the edges of the graphs of a file, given its lines; None for a line that is none of ours."""
    return [_edges(text) for text in lines]


def _edges(text: bytes) -> Edges | None:
    try:
        return [[int(i), int(j)] for i, j in json.loads(text)["edges"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def resolve(record: Record, graphs: list[Edges | None], workers: int) -> Record:
    """Return a record with the edges of its graph in the place of the graph's number.

    Raises
    ------
    ValueError
        If there is no such graph, or it is not one of these workers.
    """
    if "graph" not in record:
        return record
    number = record["graph"]
    edges = graphs[number] if type(number) is int and 0 <= number < len(graphs) else None
    if edges is None or any(not 0 <= rank < workers for edge in edges for rank in edge):
        shown = printable(repr(number))[:40]
        raise ValueError(f"graph must be the number of a line of {NAME} with edges of {workers} workers; got {shown}")
    # The edges are shared by the records, which nobody changes.
    return {("edges" if name == "graph" else name): value for name, value in record.items()} | {"edges": edges}
