"""Checks of ranges, choices and combinations of keys, beyond their types."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from conf import groups
from conf.errors import ConfigError
from conf.fields import Key
from conf.schema import Config

_WITH_GROUPS = ("mitbih", "npz")


def validate(config: Config) -> None:
    """Check ranges and combinations of a configuration.

    Raises
    ------
    ConfigError
        With one line that names the first invalid key, its value and the allowed values.
    """
    for name, declared, value in _leaves(config):
        _check_value(name, declared, value)
    _check_sizes(config)
    if config.resume is not None and config.run_dir not in (None, config.resume):
        raise ConfigError(
            f"run_dir must not be set with resume={config.resume}, the folder of the resumed run; got {config.run_dir}"
        )
    _check_partitioner(config)
    _check_work(config)
    _check_fleet(config)
    _check_strategy(config)
    if isinstance(config.strategy, groups.Decentralised):
        _check_topology(config)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Key, Any]]:
    for declared in fields(node):
        value = getattr(node, declared.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{declared.name}.")
        else:
            yield prefix + declared.name, declared.metadata["key"], value


def _check_value(name: str, declared: Key, value: Any) -> None:
    if value is None:
        if declared.choices:  # a list or a string is Any to OmegaConf, which accepts null
            raise ConfigError(f"{name} must be one of {_words(declared)}; got null")
        return
    numbers = value if isinstance(value, list) else [value]
    if declared.choices and not isinstance(value, list):
        if value not in declared.choices:
            raise ConfigError(f"{name} must be one of {_words(declared)}; got {value}")
    elif declared.within is not None:
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ConfigError(f"{name} must contain numbers; got {number}")
            if not math.isfinite(number):
                raise ConfigError(f"{name} must be finite; got {number}")
            if number not in declared.within:
                verb = "be" if math.isinf(declared.within.high) else "lie"
                raise ConfigError(f"{name} must {verb} {declared.within}; got {number}")


def _words(declared: Key) -> str:
    return ", ".join(declared.choices) + (" or a list of numbers" if declared.within else "")


def _check_sizes(config: Config) -> None:
    if config.minibatch_size > config.batch_size:
        raise ConfigError(f"minibatch_size must be at most batch_size={config.batch_size}; got {config.minibatch_size}")


def _check_partitioner(config: Config) -> None:
    partitioner = config.partitioner
    if isinstance(partitioner.ratios, list) and len(partitioner.ratios) != config.workers:
        raise ConfigError(
            f"partitioner.ratios must contain one number per worker ({config.workers}); got {len(partitioner.ratios)}"
        )
    if partitioner.name == "by_group" and config.task.name not in _WITH_GROUPS:
        raise ConfigError(
            f"partitioner=by_group needs a task with groups ({', '.join(_WITH_GROUPS)}); got {config.task.name}"
        )
    if isinstance(partitioner, groups.Submodular) and partitioner.features == "model" and not partitioner.model_path:
        raise ConfigError(
            "partitioner.features=model needs partitioner.model_path, the run that trained the model; got null"
        )


def _check_work(config: Config) -> None:
    work = config.work
    if not isinstance(work, groups.NonBlocking):
        return
    if work.trigger == "deadline" and work.deadline is None:
        raise ConfigError("work.trigger=deadline needs work.deadline, in seconds; got null")
    if work.target == "rest" and config.local_steps > 1:
        raise ConfigError(f"work.target=rest needs local_steps=1; got {config.local_steps}")
    if work.fold_late and isinstance(config.strategy, groups.OverSelection):
        raise ConfigError(
            "work.fold_late must be false with strategy=over_selection, which drops late replies; got true"
        )


def _check_fleet(config: Config) -> None:
    if isinstance(config.fleet, groups.Pattern) and not config.fleet.speeds:
        raise ConfigError("fleet.speeds must contain at least one number; got []")


def _check_strategy(config: Config) -> None:
    strategy = config.strategy
    if isinstance(strategy, groups.Decentralised) and strategy.order == "combine_then_adapt" and config.local_steps > 1:
        raise ConfigError(f"strategy.order=combine_then_adapt needs local_steps=1; got {config.local_steps}")
    if isinstance(strategy, groups.ALDSGD):
        for first, second in (("c1", "c2"), ("p1", "p2")):
            a, b = getattr(strategy, first), getattr(strategy, second)
            if a + b >= 1:
                raise ConfigError(f"strategy.{first} + strategy.{second} must be below 1; got {a} + {b}")


def _check_topology(config: Config) -> None:
    topology, workers = config.topology, config.workers
    if topology.name in ("g0", "g0_rotating") and workers != 8:
        raise ConfigError(f"topology={topology.name} needs workers=8; got {workers} (try topology=ring)")
    _check_schedule(config)
    if isinstance(topology, groups.Regular):
        if topology.degree >= workers:
            raise ConfigError(f"topology.degree must be below workers={workers}; got {topology.degree}")
        if topology.degree * workers % 2:
            raise ConfigError(f"topology.degree x workers must be even; got {topology.degree} x {workers}")
    if isinstance(topology, groups.Edges):
        for edge in topology.edges:
            if len(edge) != 2 or edge[0] == edge[1] or not all(0 <= rank < workers for rank in edge):
                raise ConfigError(f"topology.edges must be pairs of different ranks in 0..{workers - 1}; got {edge}")


def _check_schedule(config: Config) -> None:
    topology = config.topology
    if topology.name == "g0_rotating":
        if topology.schedule != "rotation":
            raise ConfigError(
                f"topology.schedule must be rotation for topology=g0_rotating; got {topology.schedule} "
                f"(try topology=g0 topology.schedule={topology.schedule})"
            )
        if topology.rotate != 3:
            raise ConfigError(
                f"topology.rotate must be 3 for topology=g0_rotating, the papers' copies; got {topology.rotate} "
                f"(try topology=g0 topology.schedule=rotation topology.rotate={topology.rotate})"
            )
    if groups.is_matcha(config.strategy) and topology.schedule not in ("static", "rotation"):
        key = "strategy.base" if isinstance(config.strategy, groups.ALDSGD) else "strategy"
        raise ConfigError(f"topology.schedule must be static or rotation for {key}=matcha; got {topology.schedule}")
