"""Evaluation of the consensus model and of every worker's model, on the server or on the workers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray

from echelon.protocol.messages import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES, SHARD, shard_record
from echelon.server.layout import Layout
from echelon.server.options import Plan
from echelon.server.state import ServerState

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]

_MEASURES = ("accuracy", "loss")


def consensus_row(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the rows, accumulated in float64 in rank order; buffers are averaged too."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += row
    mean: NDArray[np.float32] = (total / len(rows)).astype(np.float32)
    return mean


def evaluate_models(
    evaluate_fn: EvaluateFn, server_round: int, rows: NDArray[np.float32], layout: Layout
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
    layout : Layout
        Of the rows.

    Returns
    -------
    tuple
        The consensus model's metrics as the function gave them, and the fields of the round's record.
    """
    consensus = evaluate_fn(server_round, layout.arrays(consensus_row(rows)))
    if consensus is None:
        return None, {}
    if (rows == rows[0]).all():
        workers = [consensus] * len(rows)
    else:
        workers = [evaluate_fn(server_round, layout.arrays(row)) or MetricRecord() for row in rows]
    fields: dict[str, Any] = {}
    for name in _MEASURES:
        if name in consensus:
            fields[f"consensus_{name}"] = consensus[name]
            fields[f"worker_{name}"] = [worker.get(name) for worker in workers]
    return consensus, fields


def evaluate_message(
    node_id: int, rank: int, config: ConfigRecord, state: ServerState, layout: Layout, plan: Plan
) -> Message:
    """Return the message that lets a worker evaluate its own model on its own data."""
    content = RecordDict({ARRAYS: layout.arrays(state.rows[rank]), CONFIG: ConfigRecord(dict(config))})
    if plan.parts is not None:
        content[SHARD] = shard_record(plan.parts[rank])
    return Message(content, dst_node_id=node_id, message_type=MessageType.EVALUATE)


def workers_fields(replies: Mapping[int, Message], num_workers: int) -> tuple[MetricRecord | None, dict[str, Any]]:
    """Return the workers' own metrics: averaged by the samples that they evaluated, and as fields of the record.

    Workers that could not evaluate (an error, no numbers) are left out.
    """
    by_rank: dict[int, dict[str, float]] = {}
    for rank, reply in sorted(replies.items()):
        metrics = reply.content.metric_records.get(METRICS) if reply.has_content() else None
        if metrics is None or not all(isinstance(metrics.get(n), int | float) for n in (NUM_EXAMPLES, *_MEASURES)):
            continue
        by_rank[rank] = {name: float(metrics[name]) for name in (NUM_EXAMPLES, *_MEASURES)}  # type: ignore[arg-type]
    total = sum(values[NUM_EXAMPLES] for values in by_rank.values())
    if total <= 0:
        return None, {}
    mean = {name: sum(v[NUM_EXAMPLES] * v[name] for v in by_rank.values()) / total for name in _MEASURES}
    fields = {f"worker_{name}": [by_rank.get(r, {}).get(name) for r in range(num_workers)] for name in _MEASURES}
    return MetricRecord({**mean}), fields
