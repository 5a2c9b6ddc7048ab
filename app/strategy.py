"""The strategy that a configuration asks for."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from flwr.app import ArrayRecord

from conf import Config, groups
from echelon.algorithms import topology
from echelon.engines.ray import default_window
from strategies import (
    ALDSGD,
    DPSGD,
    SGD,
    AllReduce,
    FedBuff,
    FullBatch,
    Matcha,
    NonBlocking,
    NormLimit,
    Options,
    OverSelection,
    PerWorkerStrategy,
)


def build(
    config: Config,
    options: Options,
    *,
    wall_clock: bool = False,
    held_out_loss: Callable[[ArrayRecord], float] | None = None,
) -> PerWorkerStrategy:
    """Return the strategy of a configuration.

    Parameters
    ----------
    config : Config
        Checked.
    options : Options
        What is not configured: plan, callbacks, state, stop.
    wall_clock : bool
        Whether the workers are real devices: a silent one is then given up after the budget and a grace.
    held_out_loss : callable, optional
        (arrays) -> loss, for leaders chosen by it.
    """
    common: dict[str, Any] = {**_common(config, wall_clock), **options}
    chosen = config.strategy
    shared = {field.name for field in fields(groups.Strategy)}
    own: dict[str, Any] = {name: value for name, value in vars(chosen).items() if name not in shared}
    if isinstance(chosen, groups.OverSelection):
        return OverSelection(wall_clock=wall_clock, **own, **common)
    if isinstance(chosen, groups.FedBuff):
        return FedBuff(wall_clock=wall_clock, **own, **common)
    if not isinstance(chosen, groups.Decentralised):
        return AllReduce(**common)
    graphs = _schedule(config)
    if isinstance(chosen, groups.ALDSGD):
        return ALDSGD(graphs, held_out_loss=held_out_loss, allow_disconnected=_is_legacy(config), **own, **common)
    if isinstance(chosen, groups.Matcha):
        return Matcha(graphs, **own, **common)
    return DPSGD(graphs, allow_disconnected=_is_legacy(config), **own, **common)


def _common(config: Config, wall_clock: bool) -> dict[str, Any]:
    chosen = config.strategy
    common: dict[str, Any] = {
        "work": _work(config),
        "sgd": SGD(
            config.learning_rate, config.momentum, config.weight_decay, tuple(config.lr_milestones), config.lr_gamma
        ),
        "seed": config.seed,
        "num_workers": config.workers,
        "eval_every": config.eval_every,
    }
    if chosen.max_update_norm is not None:
        common["norm_limit"] = NormLimit(chosen.max_update_norm, chosen.max_update_action)
    if isinstance(config.engine, groups.Ray):
        common["window"] = config.engine.window or default_window(config.workers, config.engine.num_cpus)
    if isinstance(config.work, groups.NonBlocking):
        common["fold_late"] = config.work.fold_late
        if wall_clock:
            common["grace_seconds"] = config.work.grace
    return common


def _work(config: Config) -> FullBatch | NonBlocking:
    sizes = {name: getattr(config, name) for name in ("local_steps", "batch_size", "minibatch_size")}
    chosen = config.work
    if not isinstance(chosen, groups.NonBlocking):
        return FullBatch(**sizes, ema=chosen.ema)
    names = ("trigger", "quorum", "deadline", "estimator", "min_minibatches", "target", "ema")
    return NonBlocking(**sizes, **{name: getattr(chosen, name) for name in names})


def _schedule(config: Config) -> topology.Schedule:
    graphs = dict(vars(config.topology))
    name, kind, rotate = (graphs.pop(key) for key in ("name", "schedule", "rotate"))
    return topology.schedule(name, config.workers, kind=kind, rotate=rotate, seed=config.seed, **graphs)


def _is_legacy(config: Config) -> bool:
    return config.topology.schedule == "legacy_alternating"
