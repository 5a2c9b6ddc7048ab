"""Reading a worker's reply: nothing that it sends is believed before it has been checked."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from echelon.core.layout import Bytes, Row
from echelon.protocol.layout import ArrayLayout
from echelon.protocol.messages import ARRAYS, METRICS, MOMENTUM, OPTIMIZER, TrainReport, num_bytes, record
from echelon.protocol.packing import unpack

# No round takes thirty years; sums of such times stay finite.
_LONGEST_SECONDS = 1e9


class RejectedReplyError(ValueError):
    """A reply that must not enter the model, with the reason."""


@dataclass(frozen=True)
class Reply:
    """A checked reply: the worker's new row and the bytes beside it (None if it was away), momentum and report.

    ``obeys_budget`` is false of a client that does not report how much it has done. Row and momentum may be views of
    the message, which cannot be written to: see :meth:`writable`.
    """

    report: TrainReport
    row: Row | None = None
    exact: Bytes | None = None
    momentum: NDArray[np.float32] | None = None
    optimizer: NDArray[np.float32] | None = None
    num_bytes: int = 0
    obeys_budget: bool = True

    def writable(self) -> "Reply":
        """Return a reply whose row and momentum can be changed in place."""
        row, momentum = (
            None if kept is None else np.require(kept, requirements="W") for kept in (self.row, self.momentum)
        )
        return replace(self, row=row, momentum=momentum)

    def made_whole(self, layout: ArrayLayout, row: Row, momentum: Row | None) -> "Reply":
        """Return a reply with values in place of the differences to this row and momentum that the worker has sent.

        Parameters
        ----------
        layout : ArrayLayout
            By which the reply has travelled; with another than one of differences, the reply has values already.
        row : float32 ndarray, shape (P,)
            The worker's model as the server holds it, in full precision.
        momentum : float32 ndarray, shape (num_parameters,), or None
            Likewise.

        Raises
        ------
        RejectedReplyError
            If a sum is not finite.
        """
        if self.row is None or not layout.differences:
            return self
        new, velocity = self.row.copy(), self.momentum
        parameters = slice(layout.num_parameters)  # buffers, after them, came as values
        with np.errstate(over="ignore"):  # checked below
            new[parameters] += row[parameters]
            if velocity is not None and momentum is not None:
                velocity = velocity + momentum
        if not all(np.isfinite(values).all() for values in (new, velocity) if values is not None):
            raise RejectedReplyError("its difference makes a model that is not finite")
        return replace(self, row=new, momentum=velocity)


@dataclass(frozen=True)
class NormLimit:
    """What to do with a local update whose norm exceeds ``value``: shorten it to ``value``, or refuse the reply."""

    value: float
    action: Literal["clip", "reject"] = "clip"

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise ValueError(f"strategy.max_update_norm must be above 0; got {self.value}")
        if self.action not in ("clip", "reject"):
            raise ValueError(f"strategy.max_update_action must be clip or reject; got {self.action}")

    def apply(self, new: Row, old: Row) -> None:
        """Enforce the limit on ``new`` in place.

        Raises
        ------
        RejectedReplyError
            If the update is too long and ``action`` is ``reject``.
        """
        update = new - old
        factor = self._factor("update", float(np.linalg.norm(update)))
        if factor < 1:
            new[:] = old + update * factor

    def cap(self, factor: float, update: Row) -> float:
        """Return the weight of an update, no more than keeps the weighed update within the limit."""
        norm = float(np.linalg.norm(update))
        return min(factor, self.value / norm) if norm > 0 else factor

    def apply_to_momentum(self, momentum: Row, learning_rate: float) -> None:
        """Enforce the limit, in place, on the step that a momentum buffer makes; raises as :meth:`apply`."""
        momentum *= self._factor("momentum", learning_rate * float(np.linalg.norm(momentum)))

    def _factor(self, name: str, norm: float) -> np.float32:
        if norm <= self.value:
            return np.float32(1.0)
        if self.action == "reject":
            raise RejectedReplyError(f"its {name} has norm {norm:.3g}, above max_update_norm={self.value:g}")
        return np.float32(self.value / norm)


@dataclass(frozen=True)
class AutoNormLimit:
    """A :class:`NormLimit` that follows the run: ``factor`` times the median of the workers' latest update norms.

    Every worker has one norm in the median, its latest accepted one, so a few liars cannot move it far.

    Parameters
    ----------
    factor : float
        Above 1.
    action : {"clip", "reject"}
        As for :class:`NormLimit`.

    Examples
    --------
    >>> import numpy as np
    >>> from echelon.server.replies import AutoNormLimit
    >>> AutoNormLimit().at(np.array([0.5, 0.5, 1.0, 50.0, np.nan]))
    NormLimit(value=1.5, action='clip')
    """

    factor: float = 2.0
    action: Literal["clip", "reject"] = "clip"

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise ValueError(f"the factor of max_update_norm=auto must be above 1; got {self.factor}")
        NormLimit(1.0, self.action)

    def at(self, norms: NDArray[np.float64]) -> NormLimit | None:
        """Return the limit for the workers' latest norms, (N,), NaN where unknown; None without a norm above 0."""
        known = norms[norms > 0]
        return NormLimit(self.factor * float(np.median(known)), self.action) if known.size else None


def read(message: Message, layout: ArrayLayout, target_samples: int, shard_size: int | None = None) -> Reply:
    """Check a reply to a train message.

    Parameters
    ----------
    message : Message
        From a worker.
    layout : ArrayLayout
        Of the run's model.
    target_samples : int
        What the worker was asked to process.
    shard_size : int, optional
        What the server assigned to it, if it did.

    Raises
    ------
    RejectedReplyError
        If it is an error, or incomplete, of a wrong shape or type, not finite, or its counts cannot be true.
    """
    if message.has_error():
        raise RejectedReplyError(reason(message))
    return read_content(message.content, layout, target_samples, shard_size)


def read_content(content: RecordDict, layout: ArrayLayout, target_samples: int, shard_size: int | None = None) -> Reply:
    """Check the content of a reply to a train message; parameters and errors as for :func:`read`."""
    try:
        content = unpack(content, layout.expected)
        metrics = record(content, METRICS, MetricRecord)
        report = TrainReport.from_metrics(metrics)
        obeys_budget = "samples" in metrics
        if not obeys_budget:  # a foreign client does as it is told, and does not say so
            report = replace(report, samples=target_samples if report.num_examples else 0)
        if report.away_seconds > 0:
            return Reply(report)
        if shard_size is not None and report.num_examples != shard_size:
            raise RejectedReplyError(f"num-examples must be {shard_size}, its shard; got {report.num_examples}")
        arrays = record(content, ARRAYS, ArrayRecord)
        row, exact = layout.read(arrays)
        momentum = layout.parameter_row(record(content, MOMENTUM, ArrayRecord)) if MOMENTUM in content else None
        optimizer = layout.optimizer_row(record(content, OPTIMIZER, ArrayRecord)) if OPTIMIZER in content else None
    except KeyError as error:
        raise RejectedReplyError(f"its reply lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise RejectedReplyError(str(error)) from error
    _check_counts(report, target_samples)
    return Reply(report, row, exact, momentum, optimizer, num_bytes(content), obeys_budget)


def _check_counts(report: TrainReport, target_samples: int) -> None:
    for name in ("num_examples", "samples", "minibatches"):
        if not isinstance(getattr(report, name), int):
            raise RejectedReplyError(f"{name.replace('_', '-')} must be an integer; got {getattr(report, name)}")
    if report.num_examples < 0 or report.num_examples == 0 < report.samples:
        raise RejectedReplyError(f"num-examples must be at least 1; got {report.num_examples}")
    if report.minibatches < 0:
        raise RejectedReplyError(f"minibatches must be at least 0; got {report.minibatches}")
    if not 0 <= report.samples <= target_samples:
        raise RejectedReplyError(f"samples must lie in [0, {target_samples}]; got {report.samples}")
    if not 0 <= report.seconds <= _LONGEST_SECONDS:
        raise RejectedReplyError(f"seconds must lie in [0, {_LONGEST_SECONDS:g}]; got {report.seconds}")
    if report.samples > 0 and np.isinf(report.train_loss):
        raise RejectedReplyError(f"train_loss must be finite; got {report.train_loss}")


def reason(message: Message) -> str:
    """Return the code of an error reply and the last telling line of its reason, which may be a whole traceback."""
    text = message.error.reason or "no reason given"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"error {message.error.code}: {lines[-1][:300]}"
