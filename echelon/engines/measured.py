"""What all processes of a run without a server learn of a round: reports, distances and evaluations, gathered."""

import math
from collections.abc import Mapping
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from flwr.app import MetricRecord
from torch import Tensor

from echelon.core.layout import Bytes, Row
from echelon.core.mixing import Mean, Mixing
from echelon.core.tally import Tally
from echelon.peer.group import Group
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import RosterEntry, TrainReport
from echelon.server.evaluated import EvaluatedWorkers
from echelon.server.evaluation import MEASURES, EvaluateFn, evaluation_fields
from echelon.server.nodes import Roster
from echelon.server.replies import Reply
from echelon.server.updates import Received

_ENTRY = ("num_examples", "samples_per_second", "seconds_per_minibatch", "latency_seconds", "bandwidth")
_COUNTS = ("num_examples", "samples", "minibatches")


def described(entries: Mapping[int, RosterEntry]) -> bytes:
    """Return what the workers of a process say of themselves, as it travels."""
    return np.array([[getattr(entry, name) for name in _ENTRY] for _, entry in sorted(entries.items())]).tobytes()


def roster(pieces: Mapping[int, bytes], group: Group) -> Roster:
    """Return the workers of all processes, given what each has said of its own."""
    found: dict[int, RosterEntry] = {}
    for process, piece in pieces.items():
        table = np.frombuffer(piece).reshape(-1, len(_ENTRY)).tolist()
        for rank, values in zip(group.held_by(process), table, strict=True):
            said: dict[str, Any] = dict(zip(_ENTRY, values, strict=True))
            found[rank] = RosterEntry(rank, int(said.pop("num_examples")), **said)
    return Roster([found[rank] for rank in range(group.num_workers)], list(range(group.num_workers)))


def squared_deviations(mixing: Mixing, rows: Mapping[int, Tensor], group: Group) -> dict[int, float]:
    """Return ||x_i - mean||^2 of the workers of this process: an all-reduce, unless there is one model."""
    if isinstance(mixing.matrix, Mean):
        return dict.fromkeys(rows, 0.0)
    mean = torch.stack(list(rows.values())).sum(dim=0)
    dist.all_reduce(mean)
    mean /= int(group.there.sum())
    return {rank: float(torch.linalg.vector_norm(row - mean, dtype=torch.float64)) ** 2 for rank, row in rows.items()}


def received(replies: Mapping[int, Reply], deviations: Mapping[int, float], group: Group) -> tuple[Received, float]:
    """Return what the workers have reported of a round, and the root mean square distance of the models to their mean.

    Parameters
    ----------
    replies : mapping of int to Reply
        Of all workers of this process; without a row where the worker was away.
    deviations : mapping of int to float
        See :func:`squared_deviations`.
    group : Group
        Who holds which worker.
    """
    names = [field.name for field in fields(TrainReport)]
    table = np.zeros((group.num_workers, 1 + len(names)))
    for rank, reply in replies.items():
        table[rank] = deviations[rank], *astuple(reply.report)
    there, gathered = np.flatnonzero(group.there), group.gather(table)
    found = Received()
    for rank, values in zip(there.tolist(), gathered[there, 1:].tolist(), strict=True):
        said: dict[str, Any] = dict(zip(names, values, strict=True))
        report = TrainReport(**said | {name: int(said[name]) for name in _COUNTS})
        if report.away_seconds > 0:
            found.offline[rank] = report.away_seconds
        else:
            found.replies[rank] = Reply(report)
    return found, float(np.sqrt(gathered[there, 0].mean()))


def evaluated(
    models: Mapping[int, tuple[Row, Bytes]],
    mixing: Mixing | None,
    layout: ArrayLayout,
    tally: Tally,
    evaluate: EvaluateFn,
    chosen: EvaluatedWorkers,
    group: Group,
) -> dict[str, Any]:
    """Evaluate the mean of all models in the first process, and the models of some workers where they are.

    Parameters
    ----------
    models : mapping of int to (row, exact)
        Of the workers of this process.
    mixing : Mixing
        Of the round: after a :class:`Mean` all models are equal, and one evaluation serves. None if that is unknown.
    layout, tally, group
        Of the run.
    evaluate : callable
        (round, arrays) -> metrics with ``accuracy`` and ``loss``.
    chosen : EvaluatedWorkers
        Whose models are evaluated.

    Returns
    -------
    dict
        The fields of the round's record, the same in every process.
    """
    row, exact = consensus(models, layout, group)
    is_one = mixing is not None and isinstance(mixing.matrix, Mean)
    is_one = is_one and layout.size == layout.num_mixed and not layout.exact_size
    ranks = [] if is_one else chosen.ranks(tally)
    table = np.full((group.num_workers, 2 * len(MEASURES)), math.nan)
    if group.is_first:
        table[group.local[0], : len(MEASURES)] = _measures(evaluate(tally.round, layout.arrays(row, exact)))
    for rank in set(ranks) & set(models):
        table[rank, len(MEASURES) :] = _measures(evaluate(tally.round, layout.arrays(*models[rank])))
    gathered = group.gather(table, math.nan)
    of_consensus = _known(gathered[group.held_by(group.members[0])[0], : len(MEASURES)].tolist())
    there = group.there
    by_rank = {rank: _known(gathered[rank, len(MEASURES) :].tolist()) for rank in ranks if there[rank]}
    if is_one and chosen.choice != "none":
        by_rank = dict.fromkeys(np.flatnonzero(there).tolist(), of_consensus)
    return evaluation_fields(of_consensus, by_rank, group.num_workers)


def consensus(models: Mapping[int, tuple[Row, Bytes]], layout: ArrayLayout, group: Group) -> tuple[Row, Bytes]:
    """Return the mean of all models, and the bytes beside it; every process must call it."""
    total = torch.zeros(layout.size, dtype=torch.float64)
    for row, _ in models.values():
        total += torch.from_numpy(row)
    dist.all_reduce(total)
    mean: Row = (total / int(group.there.sum())).float().numpy()
    if not layout.exact_size:
        return mean, np.empty(0, dtype=np.uint8)
    beside = exacts(models, layout, group)
    return mean, layout.consensus_exact(np.stack([beside[rank] for rank in sorted(beside)]))


def model_of(
    rank: int, models: Mapping[int, tuple[Row, Bytes]], layout: ArrayLayout, group: Group
) -> tuple[Row, Bytes]:
    """Return one worker's model, wherever it is; every process must call it."""
    if group.owners[rank] == group.process:
        row, exact = models[rank]
        found = torch.from_numpy(row.copy())
    else:
        found, exact = torch.zeros(layout.size), np.empty(0, dtype=np.uint8)
    dist.broadcast(found, src=group.address(group.owners[rank]))
    if layout.exact_size:
        exact = exacts(models, layout, group)[rank]
    return found.numpy(), exact


def exacts(models: Mapping[int, tuple[Row, Bytes]], layout: ArrayLayout, group: Group) -> dict[int, Bytes]:
    """Return the bytes beside the rows of all workers that take part, by rank; every process must call it."""
    pieces = group.collect(b"".join(models[rank][1].tobytes() for rank in group.local))
    return {
        rank: bytes_of
        for process, piece in pieces.items()
        for rank, bytes_of in zip(
            group.held_by(process), np.frombuffer(piece, np.uint8).reshape(-1, layout.exact_size), strict=True
        )
    }


def _measures(metrics: MetricRecord | None) -> list[Any]:
    """Return the measures in order; NaN for those that are missing."""
    return [math.nan if metrics is None else metrics.get(name, math.nan) for name in MEASURES]


def _known(values: list[float]) -> dict[str, float]:
    """Return the measures by name; a loss that is not a number counts as such."""
    return {name: value for name, value in zip(MEASURES, values, strict=True) if name == "loss" or value == value}
