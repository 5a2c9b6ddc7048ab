"""Evaluation of the consensus model and of every worker's model, on the server or on the workers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray

from echelon.core.operations import consensus
from echelon.core.partition import Partition
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES, SHARD, shard_record
from echelon.server.state import ServerState

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]

_MEASURES = ("accuracy", "loss")


def evaluate_models(
    evaluate_fn: EvaluateFn, server_round: int, rows: NDArray[np.float32], layout: ArrayLayout
) -> tuple[MetricRecord | None, dict[str, Any]]:
    """Evaluate the mean of the rows and each row on the server.

    Parameters
    ----------
    evaluate_fn : callable
        (round, arrays) -> metrics with ``accuracy`` and ``loss``, or None.
    server_round : int
        Passed on.
    rows : float32 ndarray, shape (N, P)
        The workers' models; where all are equal, one evaluation serves.
    layout : ArrayLayout
        Of the rows.

    Returns
    -------
    tuple
        The consensus model's metrics as the function gave them, and the fields of the round's record.
    """
    of_consensus = evaluate_fn(server_round, layout.arrays(consensus(rows)))
    if of_consensus is None:
        return None, {}
    if (rows == rows[0]).all():
        workers = [of_consensus] * len(rows)
    else:
        workers = [evaluate_fn(server_round, layout.arrays(row)) or MetricRecord() for row in rows]
    fields: dict[str, Any] = {}
    for name in _MEASURES:
        if name in of_consensus:
            fields[f"consensus_{name}"] = of_consensus[name]
            fields[f"worker_{name}"] = [worker.get(name) for worker in workers]
    return of_consensus, fields


def evaluate_message(
    node_id: int, rank: int, config: ConfigRecord, state: ServerState, layout: ArrayLayout, partition: Partition
) -> Message:
    """Return the message that lets a worker evaluate its own model on its own data."""
    content = RecordDict({ARRAYS: layout.arrays(state.rows[rank]), CONFIG: ConfigRecord(dict(config))})
    if partition.parts is not None:
        content[SHARD] = shard_record(partition.parts[rank])
    return Message(content, dst_node_id=node_id, message_type=MessageType.EVALUATE)


def worker_metrics(replies: Mapping[int, Message], num_workers: int) -> tuple[MetricRecord | None, dict[str, Any]]:
    """Return the workers' own metrics: averaged by the samples that they evaluated, and as fields of the record.

    Workers that could not evaluate (an error, no numbers) are left out.
    """
    names = (NUM_EXAMPLES, *_MEASURES)
    by_rank: dict[int, dict[str, float]] = {}
    for rank, reply in sorted(replies.items()):
        metrics = reply.content.get(METRICS) if reply.has_content() else None
        values = [metrics.get(name) for name in names] if isinstance(metrics, MetricRecord) else [None]
        if all(isinstance(value, int | float) for value in values):
            by_rank[rank] = dict(zip(names, map(float, values), strict=True))  # type: ignore[arg-type]
    total = sum(values[NUM_EXAMPLES] for values in by_rank.values())
    if total <= 0:
        return None, {}
    mean = {name: sum(v[NUM_EXAMPLES] * v[name] for v in by_rank.values()) / total for name in _MEASURES}
    fields = {f"worker_{name}": [by_rank.get(r, {}).get(name) for r in range(num_workers)] for name in _MEASURES}
    return MetricRecord({**mean}), fields
