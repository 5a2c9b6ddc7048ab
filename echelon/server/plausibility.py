"""What a worker may truthfully report: losses, counts and speeds within what the server knows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import WARNING

import numpy as np
from flwr.supercore import log
from numpy.typing import NDArray

from echelon.protocol.messages import RosterEntry, TrainReport
from echelon.server.replies import RejectedReplyError

# No device of a fleet is faster than its median one by this factor: such a speed is a false one.
MAX_SPEED_RATIO = 100.0
# With fewer known speeds, a median does not tell who of two differs.
_LEAST_SPEEDS = 3
# Clocks of two machines may run at slightly different rates.
_CLOCK_TOLERANCE = 1.01


@dataclass(frozen=True)
class Plausibility:
    """Limits of what a report may say.

    Parameters
    ----------
    minibatch_size : int
        Samples of a mini-batch, of the run.
    loss_lower_bound : float
        Lowest value that the training loss can have: 0 for cross-entropy; -inf for a loss without a bound.
    wall_clock : bool
        Whether workers measure real time, which the server's own clock bounds.
    by_median : bool
        Whether speeds are compared with the fleet's median; otherwise with what the worker said in the handshake, as
        in a simulation, where devices may differ as much as the configuration says.
    """

    minibatch_size: int = 1
    loss_lower_bound: float = 0.0
    wall_clock: bool = False
    by_median: bool = True

    def check(self, report: TrainReport, target_minibatches: int, elapsed_seconds: float) -> None:
        """Refuse a report that cannot be true.

        Parameters
        ----------
        report : TrainReport
            Its fields have the right types (see :func:`echelon.server.replies.read`).
        target_minibatches : int
            What the worker was asked to finish.
        elapsed_seconds : float
            Real time from the server's message to the reply.

        Raises
        ------
        RejectedReplyError
            Naming the value and the allowed range.
        """
        if report.samples and report.train_loss < self.loss_lower_bound:
            raise RejectedReplyError(
                f"train_loss must be at least {self.loss_lower_bound:g} (option loss_lower_bound); "
                f"got {report.train_loss:g}"
            )
        least = -(-report.samples // self.minibatch_size)
        most = max(target_minibatches, least) if report.samples else 0
        if report.minibatches and not least <= report.minibatches <= most:  # a foreign client does not count
            raise RejectedReplyError(
                f"minibatches must lie in [{least}, {most}] for {report.samples} samples; got {report.minibatches}"
            )
        if self.wall_clock and report.seconds > elapsed_seconds * _CLOCK_TOLERANCE:
            raise RejectedReplyError(
                f"seconds must lie in [0, {elapsed_seconds:.3g}], the time since its message was sent; "
                f"got {report.seconds:g}"
            )

    def believed(
        self, report: TrainReport, known: NDArray[np.float64], announced: float = np.nan
    ) -> tuple[TrainReport, str | None]:
        """Return a report whose seconds can be believed, and why they are not the reported ones (None: they are).

        A worker more than ``MAX_SPEED_RATIO`` times as fast as the fleet's median (or as it said that it is) counts as
        one of that speed, so that it neither ends the rounds of all others nor changes the run's time axis.

        Parameters
        ----------
        report : TrainReport
            As :meth:`check` accepts it.
        known : float64 ndarray, shape (N,)
            Estimates of all workers' seconds per mini-batch; NaN where unknown.
        announced : float
            The worker's own, from the handshake; NaN if unknown.
        """
        if not report.samples or not report.seconds:
            return report, None
        by_median = self.by_median or np.isnan(announced)
        usual = _median(known) if by_median else announced
        share = report.samples / self.minibatch_size
        if usual is None or report.seconds >= share * usual / MAX_SPEED_RATIO:
            return report, None
        whose = "the fleet's median speed" if by_median else "the speed in its handshake"
        reason = (
            f"seconds must be at least {share * usual / MAX_SPEED_RATIO:.3g} for {report.samples} samples, {whose} "
            f"times {MAX_SPEED_RATIO:g}; got {report.seconds:g}"
        )
        return replace(report, seconds=share * usual), reason


def believed_entries(entries: Sequence[RosterEntry]) -> list[RosterEntry]:
    """Return the handshake's entries with speeds that can be believed; log those that cannot.

    A worker that claims more than ``MAX_SPEED_RATIO`` times the median speed gets the median speed.
    """
    speed = _median(np.array([entry.samples_per_second for entry in entries], dtype=np.float64))
    seconds = _median(np.array([entry.seconds_per_minibatch for entry in entries], dtype=np.float64))
    believed = []
    for entry in entries:
        if speed is not None and entry.samples_per_second > speed * MAX_SPEED_RATIO:
            _log_speed(
                entry.rank, "samples_per_second", f"at most {speed * MAX_SPEED_RATIO:g}", entry.samples_per_second
            )
            entry = replace(entry, samples_per_second=speed)
        if seconds is not None and entry.seconds_per_minibatch < seconds / MAX_SPEED_RATIO:
            least = f"at least {seconds / MAX_SPEED_RATIO:g}"
            _log_speed(entry.rank, "seconds_per_minibatch", least, entry.seconds_per_minibatch)
            entry = replace(entry, seconds_per_minibatch=seconds)
        believed.append(entry)
    return believed


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size >= _LEAST_SPEEDS else None


def _log_speed(rank: int, name: str, allowed: str, value: float) -> None:
    log(
        WARNING,
        "Worker %s: %s must be %s, by the fleet's median; got %g: it counts as a worker of median speed",
        rank,
        name,
        allowed,
        value,
    )
