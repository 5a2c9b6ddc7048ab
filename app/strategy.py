"""The strategy that a configuration asks for."""

from collections.abc import Callable
from typing import Any

from app.keywords import keywords
from conf import Config, groups
from echelon.algorithms import topology
from strategies import (
    REGISTRY,
    SGD,
    AutoNormLimit,
    FlowerStrategy,
    FullBatch,
    Nodes,
    NonBlocking,
    NormLimit,
    Options,
)


def build(
    config: Config,
    options: Options,
    *,
    wall_clock: bool = False,
) -> FlowerStrategy:
    """Return the strategy of a configuration: the class that ``REGISTRY`` names, made with the choice's own keys.

    A class gets the graphs (``topology``), ``allow_disconnected`` and ``wall_clock`` if its constructor takes them.

    Parameters
    ----------
    config : Config
        Checked.
    options : Options
        What is not configured: partition, callbacks, state, stop, loss on held-out samples.
    wall_clock : bool
        Whether the workers are real devices: one that has not replied is then absent after the budget and a grace.
    """
    chosen = config.strategy
    make: Callable[..., FlowerStrategy] = REGISTRY[chosen.name]
    offered: dict[str, Callable[[], Any]] = {
        "topology": lambda: _schedule(config),
        "allow_disconnected": lambda: config.topology.schedule == "legacy_alternating",
        "wall_clock": lambda: wall_clock,
    }
    shared = groups.Synchronous if isinstance(chosen, groups.Synchronous) else groups.Strategy
    keys = keywords(make, chosen, shared, offered)
    return make(**keys, **{**_common(config, wall_clock), **options})


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
        "max_empty_rounds": config.work.max_empty_rounds,
        "wire": config.wire,
        "roster_timeout": config.deployment.roster_timeout,
        "robust": chosen.robust,
    }
    if isinstance(chosen, groups.Synchronous):
        common |= {"momentum_mixing": chosen.momentum_mixing, "correction": chosen.correction}
    if config.nodes:
        common["nodes"] = Nodes(tuple(config.nodes), config.workers)
    if chosen.max_update_norm == "auto" or (chosen.robust and chosen.max_update_norm is None):
        common["norm_limit"] = AutoNormLimit(action=chosen.max_update_action)
    elif chosen.max_update_norm is not None:
        common["norm_limit"] = NormLimit(float(chosen.max_update_norm), chosen.max_update_action)
    if isinstance(config.engine, groups.Ray):
        common["window"] = config.engine.window
    if isinstance(config.work, groups.NonBlocking):
        common["fold_late"] = config.work.fold_late
        if wall_clock:
            common["grace_seconds"], common["adapt_grace"] = config.work.grace, config.work.adapt_grace
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
