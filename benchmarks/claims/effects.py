"""The published claims as effects: one number per seed, from runs that differ in one thing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.experiments import measures
from echelon.reports.run_folder import RunFolder

RunsOfSeed = Mapping[str, RunFolder]


@dataclass(frozen=True)
class Effect:
    """One number that a paper states, or a control of it.

    Parameters
    ----------
    claim, text : str
        The claim that it belongs to, and what is compared.
    unit : str
        ``x``, ``%`` or ``points``.
    measure : callable
        Gives the number from the runs of one seed, by variant.
    published : float or None
        The paper's number; None for a control, or where no paper has the comparison.
    """

    claim: str
    text: str
    unit: str
    measure: Callable[[RunsOfSeed], float]
    published: float | None = None

    @property
    def nothing(self) -> float:
        """The number that stands for no effect."""
        return 1.0 if self.unit == "x" else 0.0


def _speed_up(variant: str, base: str) -> Callable[[RunsOfSeed], float]:
    """Return the ratio of virtual seconds to the loss that both reach."""

    def measure(runs: RunsOfSeed) -> float:
        level = measures.common_loss((runs[variant], runs[base]))
        return measures.seconds_to(runs[base], level) / measures.seconds_to(runs[variant], level)

    return measure


def _time(variant: str, base: str) -> Callable[[RunsOfSeed], float]:
    """Return the change of virtual seconds to the loss that both reach, in percent."""
    ratio = _speed_up(variant, base)
    return lambda runs: 100 * (1 / ratio(runs) - 1)


def _consensus(variant: str, base: str) -> Callable[[RunsOfSeed], float]:
    return lambda runs: 100 * (_late_consensus(runs[variant]) - _late_consensus(runs[base]))


def _worst(variant: str, base: str) -> Callable[[RunsOfSeed], float]:
    return lambda runs: 100 * (_late_worst(runs[variant]) - _late_worst(runs[base]))


def _gap(variant: str) -> Callable[[RunsOfSeed], float]:
    """Return by how many points workers 0 and 4 are behind the other six."""

    def measure(runs: RunsOfSeed) -> float:
        isolated = measures.late(runs[variant], "worker_accuracy", lambda by_rank: np.mean(np.take(by_rank, [0, 4])))
        others = measures.late(runs[variant], "worker_accuracy", lambda by_rank: np.mean(np.delete(by_rank, [0, 4])))
        return 100 * (others - isolated)

    return measure


def _late_consensus(run: RunFolder) -> float:
    return measures.late(run, "consensus_accuracy")


def _late_worst(run: RunFolder) -> float:
    return measures.late(run, "worker_accuracy", np.min)


_NB, _RCD, _AL = "1 Non-blocking SGD", "2 RCD-SGD", "3 AL-DSGD"
_FAULT, _ALL = "4 The released D-PSGD", "5 All three together"
_HALF = "d_psgd, half the devices slow"

# Published numbers: arXiv 2211.00889; 2211.00839, Table 1 and Figure 3; 2405.11389; a third party's run of the
# released code of AL-DSGD (workers 0 and 4 at 86.8 %, the others at 91.6 %).
EFFECTS = {
    "nb_d_psgd": Effect(_NB, "time to the same loss, D-PSGD", "x", _speed_up("d_psgd, non-blocking", "d_psgd"), 2.0),
    "nb_matcha": Effect(_NB, "time to the same loss, MATCHA", "x", _speed_up("matcha, non-blocking", "matcha"), 2.0),
    "rcd_time_d_psgd": Effect(
        _RCD, "time to the same loss, D-PSGD", "%", _time("d_psgd, half slow, rcd", _HALF), -32.0
    ),
    "rcd_time_matcha": Effect(
        *(_RCD, "time to the same loss, MATCHA", "%"),
        _time("matcha, half slow, rcd", "matcha, half the devices slow"),
        -16.0,
    ),
    "rcd_accuracy_d_psgd": Effect(
        _RCD, "output model, D-PSGD", "points", _consensus("d_psgd, half slow, rcd", _HALF), 1.2
    ),
    "rcd_accuracy_matcha": Effect(
        *(_RCD, "output model, MATCHA", "points"),
        _consensus("matcha, half slow, rcd", "matcha, half the devices slow"),
        0.8,
    ),
    "rcd_random": Effect(
        *(_RCD, "control: submodular against random parts of the same sizes, output model", "points"),
        _consensus("d_psgd, half slow, rcd", "d_psgd, half slow, random parts like speeds"),
    ),
    "al_worst_d_psgd": Effect(
        _AL, "worst worker, D-PSGD with all its edges", "points", _worst("al_dsgd, rotating", "d_psgd"), 4.8
    ),
    "al_worst_matcha": Effect(_AL, "worst worker, MATCHA", "points", _worst("al_dsgd on matcha", "matcha"), 4.8),
    "al_output": Effect(_AL, "output model, D-PSGD", "points", _consensus("al_dsgd, rotating", "d_psgd"), 2.1),
    "al_rotation": Effect(
        _AL, "control: rotation without leaders, worst worker", "points", _worst("d_psgd, rotating", "d_psgd")
    ),
    "al_random_d_psgd": Effect(
        *(_AL, "control: leaders by loss against random leaders, D-PSGD, worst worker", "points"),
        _worst("al_dsgd, rotating", "al_dsgd, rotating, random leaders"),
    ),
    "al_random_matcha": Effect(
        *(_AL, "control: leaders by loss against random leaders, MATCHA, worst worker", "points"),
        _worst("al_dsgd on matcha", "al_dsgd on matcha, random leaders"),
    ),
    "fault": Effect(_FAULT, "workers 0 and 4 behind the others", "points", _gap("d_psgd, alternating matchings"), 4.8),
    "fault_control": Effect(_FAULT, "control: the same with every edge active", "points", _gap("d_psgd")),
    "all_non_blocking": Effect(
        _ALL, "time to the same loss, non-blocking alone", "x", _speed_up("d_psgd, non-blocking", "d_psgd")
    ),
    "all_rcd": Effect(_ALL, "time to the same loss, RCD alone", "x", _speed_up("d_psgd, rcd", "d_psgd")),
    "all_leaders": Effect(
        _ALL, "time to the same loss, leaders and rotation alone", "x", _speed_up("al_dsgd, rotating", "d_psgd")
    ),
    "all_three": Effect(_ALL, "time to the same loss, all three", "x", _speed_up("all three", "d_psgd")),
    "all_worst": Effect(_ALL, "worst worker, all three", "points", _worst("all three", "d_psgd")),
}
