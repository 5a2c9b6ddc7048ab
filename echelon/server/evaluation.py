"""Evaluation of the consensus model and of every worker's model, on the server or on the workers."""

import math
from collections.abc import Callable, Mapping
from logging import WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore import log

from echelon.algorithms.robust import assumed_liars
from echelon.core.operations import consensus
from echelon.core.partition import Partition
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES, SHARD, shard_record
from echelon.server.evaluated import EvaluatedWorkers
from echelon.server.replies import reason
from echelon.server.state import ServerState

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]

MEASURES = ("accuracy", "loss")


def evaluate_models(
    evaluate_fn: EvaluateFn,
    state: ServerState,
    layout: ArrayLayout,
    robust: bool = False,
    chosen: EvaluatedWorkers | None = None,
) -> tuple[MetricRecord | None, dict[str, Any]]:
    """Evaluate the mean of the workers' models, and the models of some workers, on the server.

    Parameters
    ----------
    evaluate_fn : callable
        (round, arrays) -> metrics with ``accuracy`` and ``loss``, or None.
    state : ServerState
        With the workers' models; where all are equal, one evaluation serves.
    layout : ArrayLayout
        Of the rows.
    robust : bool
        As in :func:`consensus_arrays`.
    chosen : EvaluatedWorkers, optional
        Whose models are evaluated; by default all.

    Returns
    -------
    tuple
        The consensus model's metrics as the function gave them, and the fields of the round's record: by rank, None for
        a worker whose model was not evaluated, and not at all if none was.
    """
    rows, exact = state.rows, state.exact
    of_consensus = evaluate_fn(state.round, consensus_arrays(state, layout, robust=robust))
    if of_consensus is None:
        return None, {}
    by_rank: dict[int, MetricRecord] = {}
    if (chosen is None or chosen.choice != "none") and (rows == rows[0]).all() and (exact == exact[0]).all():
        by_rank = dict.fromkeys(range(len(rows)), of_consensus)
    else:
        for rank in range(len(rows)) if chosen is None else chosen.ranks(state):
            by_rank[rank] = evaluate_fn(state.round, layout.arrays(rows[rank], exact[rank])) or MetricRecord()
    return of_consensus, evaluation_fields(of_consensus, by_rank, len(rows))


def evaluation_fields(
    of_consensus: Mapping[str, Any], by_rank: Mapping[int, Mapping[str, Any]], num_workers: int
) -> dict[str, Any]:
    """Return the fields of a round's record, given the metrics of the consensus model and of workers' models."""
    fields: dict[str, Any] = {}
    for name in MEASURES:
        if name in of_consensus:
            fields[f"consensus_{name}"] = of_consensus[name]
            if by_rank:
                values = {rank: found.get(name) for rank, found in by_rank.items()}
                fields[f"worker_{name}"] = [values.get(rank) for rank in range(num_workers)]
    return fields


def consensus_arrays(state: ServerState, layout: ArrayLayout, *, robust: bool = False) -> ArrayRecord:
    """Return the mean of all workers' models; with ``robust``, their coordinate-wise trimmed mean."""
    trim = assumed_liars(len(state.rows)) if robust else 0
    return layout.arrays(consensus(state.rows, trim), layout.consensus_exact(state.exact))


def evaluate_message(
    node_id: int, rank: int, config: ConfigRecord, state: ServerState, layout: ArrayLayout, partition: Partition
) -> Message:
    """Return the message that lets a worker evaluate its own model on its own data."""
    arrays = layout.write(state.rows[rank], state.exact[rank])
    content = RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord(dict(config))})
    if partition.parts is not None:
        content[SHARD] = shard_record(partition.parts[rank])
    return Message(content, dst_node_id=node_id, message_type=MessageType.EVALUATE)


def worker_metrics(replies: Mapping[int, Message], num_workers: int) -> tuple[MetricRecord | None, dict[str, Any]]:
    """Average what the workers say about their own models, by the samples that they evaluated, as Flower's FedAvg does.

    Parameters
    ----------
    replies : mapping of rank to Message
        Each with ``num-examples`` and any other numbers.
    num_workers : int
        N.

    Returns
    -------
    tuple
        The means (None if there are none), and the fields of the round's record: each number by rank, and
        ``evaluation_failures``, the reasons by rank, if a worker has not evaluated.
    """
    by_rank: dict[int, dict[str, float]] = {}
    failures: dict[int, str] = {}
    for rank, reply in sorted(replies.items()):
        try:
            by_rank[rank] = _numbers(reply)
        except ValueError as error:
            log(WARNING, "Worker %s has not evaluated: %s", rank, error)
            failures[rank] = str(error)
    names = sorted({name for values in by_rank.values() for name in values} - {NUM_EXAMPLES})
    means = {}
    for name in names:
        held = [(values[NUM_EXAMPLES], values[name]) for values in by_rank.values() if name in values]
        means[name] = sum(weight * value for weight, value in held) / sum(weight for weight, _ in held)
    fields: dict[str, Any] = {
        f"worker_{name}": [by_rank.get(rank, {}).get(name) for rank in range(num_workers)] for name in names
    }
    if failures:
        fields["evaluation_failures"] = failures
    return MetricRecord({**means}) if means else None, fields


def _numbers(reply: Message) -> dict[str, float]:
    """Return the numbers of an evaluation; none of a worker without samples, ValueError for what cannot be averaged."""
    if reply.has_error():
        raise ValueError(reason(reply))
    metrics = reply.content.get(METRICS)
    if not isinstance(metrics, MetricRecord):
        raise ValueError(f"its reply lacks '{METRICS}'")
    values: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"its {name} must be a finite number; got {value}")
        values[name] = float(value)
    if not values.get(NUM_EXAMPLES, -1.0) >= 0:
        raise ValueError(f"its reply must hold {NUM_EXAMPLES}, at least 0; got {metrics.get(NUM_EXAMPLES)}")
    return values if values[NUM_EXAMPLES] > 0 else {}
