"""Every strategy, as the general tests take it: a new one needs a row here, and nothing else."""

from collections.abc import Callable
from functools import partial
from typing import Any

from flwr.app import ArrayRecord

from echelon.core.work import WorkPolicy
from strategies import (
    ALDSGD,
    DPSGD,
    AllReduce,
    FedBuff,
    FedCompass,
    FlowerStrategy,
    FullBatch,
    Matcha,
    NonBlocking,
    OverSelection,
)
from tests import tiny

Factory = Callable[..., FlowerStrategy]


def _spread(arrays: ArrayRecord) -> float:
    return float(tiny.vector(arrays).std())


def _fed_compass(work: WorkPolicy | None = None, **options: Any) -> FlowerStrategy:
    """FedCompass sets the steps itself, and has of any work only the size of a step."""
    sizes = {} if work is None else {"batch_size": work.batch_size, "minibatch_size": work.minibatch_size}
    return FedCompass(1, 4, work=FullBatch(**sizes), **options)


STRATEGIES: dict[str, Factory] = {
    "all_reduce": AllReduce,
    "d_psgd": partial(DPSGD, "ring"),
    "d_psgd combine first": partial(DPSGD, "ring", order="combine_then_adapt", mixing="uniform"),
    "d_psgd target": partial(DPSGD, "star", mixing="target"),
    "d_psgd one peer": partial(DPSGD, "one_peer"),
    "d_psgd mixed momentum": partial(DPSGD, "ring", momentum_mixing="mixed"),
    "d_psgd quasi-global": partial(DPSGD, "ring", momentum_mixing="quasi_global"),
    "all_reduce quasi-global": partial(AllReduce, momentum_mixing="quasi_global"),
    "d_psgd tracking": partial(DPSGD, "ring", correction="tracking"),
    "all_reduce tracking": partial(AllReduce, correction="tracking"),
    "over_selection tracking": partial(OverSelection, keep=0.75, correction="tracking"),
    "al_dsgd tracking, quasi-global": partial(ALDSGD, "ring", correction="tracking", momentum_mixing="quasi_global"),
    "matcha tracking, mixed": partial(Matcha, "ring", correction="tracking", momentum_mixing="mixed"),
    "matcha": partial(Matcha, "ring", communication_budget=0.5),
    "al_dsgd": partial(ALDSGD, "ring"),
    "al_dsgd on matcha": partial(ALDSGD, "ring", base="matcha", communication_budget=0.6, degree="active"),
    "al_dsgd in step": partial(ALDSGD, "ring", force="in_step", signal="ema", decay=0.9, every=2),
    "al_dsgd random": partial(ALDSGD, "ring", signal="random", momentum_mixing="mixed"),
    "al_dsgd held out": partial(ALDSGD, "ring", signal="held_out", held_out_loss=_spread),
    "all_reduce robust": partial(AllReduce, robust=True),
    "d_psgd robust": partial(DPSGD, "complete", robust=True),
    "d_psgd combine first, robust": partial(DPSGD, "ring", order="combine_then_adapt", robust=True),
    "matcha robust": partial(Matcha, "ring", communication_budget=0.5, robust=True),
    "al_dsgd robust": partial(ALDSGD, "ring", robust=True, held_out_loss=_spread),
    "over_selection": partial(OverSelection, keep=0.75),
    "fedbuff": partial(FedBuff, buffer_size=2),
    "fedcompass": _fed_compass,
}

WORK: dict[str, WorkPolicy] = {
    "full_batch": FullBatch(batch_size=16, minibatch_size=4),
    "two steps": FullBatch(local_steps=2, batch_size=16, minibatch_size=4),
    "non_blocking": NonBlocking(batch_size=16, minibatch_size=4),
    "expected": NonBlocking(batch_size=16, minibatch_size=4, estimator="expected", trigger="quorum", quorum=0.75),
    "memory": NonBlocking(batch_size=16, minibatch_size=4, estimator="memory"),
    "memory, two steps": NonBlocking(local_steps=2, batch_size=16, minibatch_size=4, estimator="memory"),
    "rest": NonBlocking(batch_size=10, minibatch_size=4, target="rest", estimator="finished"),
}
