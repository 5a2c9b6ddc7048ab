"""The complete configuration, and the keys of each group choice."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

from conf import groups
from conf.fields import Key, key, schema


@schema
class Deployment:
    """Settings of deployed workers."""

    persistent_workers: bool = key("keep one trainer process per SuperNode alive between messages")
    timeout: float = key(
        "time beyond the budget after which an unresponsive trainer process is killed", "(0, inf)", unit="s"
    )
    roster_timeout: float = key(
        "time to wait for the workers at the start, and for one of them when all are gone", "(0, inf)", unit="s"
    )


@schema
class Optimizer:
    """The optimiser of the workers' steps."""

    name: Literal["sgd", "adamw", "adam", "rmsprop", "adagrad"] = key("optimiser of torch")
    state: Literal["server", "worker", "reset"] = key(
        "who keeps its state between rounds: the server, the worker's process, or nobody"
    )
    max_grad_norm: float | None = key("upper bound on the norm of a step's gradient; null = none", "(0, inf)")


@schema
class Config:
    """The complete configuration of a run; immutable by convention."""

    task: groups.Task = key("data set")
    model: groups.Model = key("architecture")
    partitioner: groups.Partitioner = key("which data each worker holds")
    work: groups.Work = key("how much a worker computes before it synchronises")
    strategy: groups.Strategy = key("which workers average their models")
    topology: groups.Topology = key("communication graph")
    fleet: groups.Fleet = key("simulated devices")
    engine: groups.Engine = key("simulation engine")
    deployment: Deployment = key("settings of deployed workers")
    optimizer: Optimizer = key("optimiser of the workers' steps")

    seed: int = key("root seed of all random numbers", "[0, 1e18]")
    rounds: int = key("number of rounds", "[1, inf)")
    workers: int = key("number of workers", "[1, inf)")
    nodes: list[int] = key(
        "Flower's ids of the deployed nodes by rank, then those of spares; [] = a rank belongs to its first node",
        "[1, inf)",
    )
    local_steps: int = key("optimiser steps F between synchronisations", "[1, inf)")
    batch_size: int = key("samples B per step", "[1, inf)")
    minibatch_size: int = key("samples b per gradient computation", "[1, inf)")
    proportional_batches: bool = key("batch sizes proportional to `partitioner.ratios`, B for the largest")
    learning_rate: float = key("learning rate", "(0, inf)")
    momentum: float = key("momentum coefficient of sgd and rmsprop", "[0, 1)")
    weight_decay: float = key("L2 penalty on the parameters; with adamw, decoupled weight decay", "[0, inf)")
    lr_milestones: list[int] = key("rounds after which the learning rate is multiplied by `lr_gamma`", "[1, inf)")
    lr_gamma: float = key("factor applied to the learning rate at each milestone", "(0, inf)")

    eval_every: int = key("rounds between evaluations; the last round is always evaluated", "[1, inf)", unit="rounds")
    stop_at: str | None = key(
        "condition that ends the run after the round that meets it, such as `consensus_accuracy>=0.9`; also "
        "consensus_loss, train_loss, virtual_seconds, wall_seconds"
    )
    evaluate_workers: Literal["all", "sample", "best_worst", "none"] = key(
        "workers whose models are evaluated, beside the consensus model: sample = as many, drawn afresh, as cost at "
        "most a third of the training since the last evaluation, and all in the last round; best_worst = those with "
        "the lowest and the highest training loss"
    )
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = key("compute device; auto = an accelerator if there is one")
    precision: Literal["fp32", "bf16"] = key("bf16 = torch's autocast; parameters and steps stay float32")
    wire: Literal["fp32", "bf16"] = key(
        "how parameters and momentum travel between server and workers in training: bf16 = rounded, in half the bytes"
    )
    clock: Literal["auto", "virtual", "wall"] = key(
        "clock that measures rounds; auto = virtual in simulation, wall when deployed"
    )

    run_dir: str | None = key("run folder; null = `runs/<date>/<time>`")
    resume: str | None = key("folder of a run to resume")
    checkpoint_every: int = key("rounds between checkpoints; 0 = none", "[0, inf)", unit="rounds")
    checkpoint_keep: int = key("number of latest checkpoints to keep", "[1, inf)")
    progress: Literal["auto", "live", "plain", "none"] = key(
        "terminal output; auto = live on a terminal, otherwise plain"
    )
    report: Literal["auto", "full", "none"] = key(
        "quality of the partition: auto = sizes and proportions of classes, full = also by the samples' features, "
        "compared with random parts, and their places in `figures/partition.png`"
    )
    tracking: Literal["none", "tensorboard", "wandb", "mlflow"] = key("additional metrics backend")


ROOT = Path(__file__).resolve().parent

_SCHEMA = re.compile(r"^  - /schema/(\w+)@_here_$", re.MULTILINE)


def _choices(group: str) -> dict[str, type]:
    """Return the schema of every choice of a group, as its YAML file names it."""
    found: dict[str, type] = {}
    for path in sorted((ROOT / group).glob("*.yaml")):
        named = _SCHEMA.search(path.read_text(encoding="utf-8"))
        if named is None or not hasattr(groups, named[1]):
            raise ValueError(f"conf/{group}/{path.name} must name a class of conf/groups.py: - /schema/<class>@_here_")
        found[path.stem] = getattr(groups, named[1])
    return found


# A group is a folder, a choice is a YAML file in it.
CHOICES: dict[str, dict[str, type]] = {
    declared.name: _choices(declared.name) for declared in fields(Config) if (ROOT / declared.name).is_dir()
}


class Entry(NamedTuple):
    """A key of the composed configuration: its metadata and type."""

    key: Key
    hint: Any


def entries(choices: Mapping[str, str]) -> dict[str, Entry]:
    """Return all keys of the configuration with these group choices, by dotted name."""
    return dict(_entries(Config, {group: CHOICES[group][choice] for group, choice in choices.items()}))


def _entries(
    cls: Any, classes: Mapping[str, type], prefix: str = "", *, is_choice: bool = False
) -> Iterator[tuple[str, Entry]]:
    hints = get_type_hints(cls)
    for declared in fields(cls):
        hint = classes.get(declared.name, hints[declared.name])
        if is_dataclass(hint):
            yield from _entries(hint, {}, f"{prefix}{declared.name}.", is_choice=declared.name in classes)
        elif not (is_choice and declared.name == "name"):  # the choice itself is the key of its group
            yield prefix + declared.name, Entry(declared.metadata["key"], hint)
