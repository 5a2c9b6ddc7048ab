"""The whole configuration, and which keys each choice of a group has."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NamedTuple, get_type_hints

from conf import groups
from conf.fields import Key, key, schema


@schema
class Deployment:
    """How a deployed worker is run."""

    persistent_workers: bool = key("keep a trainer process alive between messages")
    timeout: float = key(
        "time beyond the budget after which an unresponsive trainer process is killed", "(0, inf)", unit="s"
    )


@schema
class Config:
    """Everything that a run depends on; composed once and never changed."""

    task: groups.Task = key("what is learnt")
    model: groups.Model = key("network")
    partitioner: groups.Partitioner = key("what data a worker holds")
    work: groups.Work = key("how much a worker computes before it must synchronise")
    strategy: groups.Strategy = key("with whom a worker averages")
    topology: groups.Topology = key("who is a neighbour of whom")
    fleet: groups.Fleet = key("devices of a simulation")
    engine: groups.Engine = key("what runs the workers of a simulation")
    deployment: Deployment = key("how a deployed worker is run")

    seed: int = key("root of every draw", "[0, 1e18]")
    rounds: int = key("rounds to run", "[1, inf)")
    workers: int = key("number of workers", "[1, inf)")
    local_steps: int = key("optimiser steps F between synchronisations", "[1, inf)")
    batch_size: int = key("samples B of a step", "[1, inf)")
    minibatch_size: int = key("samples b whose gradient is computed at once", "[1, inf)")
    proportional_batches: bool = key("batches in proportion to `partitioner.ratios`: B for the largest")
    learning_rate: float = key("step size", "(0, inf)")
    momentum: float = key("momentum of the steps", "[0, 1)")
    weight_decay: float = key("L2 penalty on the parameters", "[0, inf)")
    lr_milestones: list[int] = key("rounds after which the learning rate is multiplied by `lr_gamma`", "[1, inf)")
    lr_gamma: float = key("factor on the learning rate at a milestone", "(0, inf)")

    eval_every: int = key("rounds between evaluations; the last round is always evaluated", "[1, inf)", unit="rounds")
    device: Literal["auto", "cpu", "cuda"] = key("where to compute")
    clock: Literal["auto", "virtual", "wall"] = key("whose seconds count; auto = virtual in simulation, else wall")

    run_dir: str | None = key("folder of the run; null = `runs/<date>/<time>`")
    resume: str | None = key("folder of an earlier run to go on from")
    checkpoint_every: int = key("rounds between checkpoints; 0 = none", "[0, inf)", unit="rounds")
    checkpoint_keep: int = key("newest checkpoints to keep", "[1, inf)")
    progress: Literal["auto", "live", "plain", "none"] = key("what the terminal shows; auto = live on a terminal")
    tracking: Literal["none", "tensorboard", "wandb", "mlflow"] = key("where else metrics go")


CHOICES: dict[str, dict[str, type]] = {
    "task": dict.fromkeys(("digits", "fashion_mnist", "cifar10", "cifar100", "mitbih", "npz"), groups.Task),
    "model": dict.fromkeys(("mlp", "cnn", "cnn1d", "resnet18", "resnet50", "wrn28_10", "vgg16"), groups.Model),
    "partitioner": {
        **dict.fromkeys(("iid", "stratified", "by_group", "local"), groups.Partitioner),
        "dirichlet": groups.Dirichlet,
        "shards": groups.Shards,
        "submodular": groups.Submodular,
        "file": groups.File,
    },
    "work": {"full_batch": groups.Work, "non_blocking": groups.NonBlocking},
    "strategy": {
        "all_reduce": groups.Strategy,
        "d_psgd": groups.DPSGD,
        "matcha": groups.Matcha,
        "al_dsgd": groups.ALDSGD,
        "fedbuff": groups.FedBuff,
        "over_selection": groups.OverSelection,
    },
    "topology": {
        **dict.fromkeys(
            ("ring", "torus", "complete", "star", "path", "exponential", "g0", "g0_rotating"), groups.Topology
        ),
        "er": groups.ErdosRenyi,
        "geometric": groups.Geometric,
        "regular": groups.Regular,
        "edges": groups.Edges,
    },
    "fleet": {**dict.fromkeys(("uniform", "stragglers", "two_speed"), groups.Pattern), "trace": groups.Trace},
    "engine": {"ray": groups.Ray, "inline": groups.Engine},
}


class Entry(NamedTuple):
    """A key of the composed configuration: what the schema says of it, and its type."""

    key: Key
    hint: Any


def entries(choices: Mapping[str, str]) -> dict[str, Entry]:
    """Return every key, by its dotted name, of the configuration with these choices of groups."""
    return dict(_entries(Config, {group: CHOICES[group][choice] for group, choice in choices.items()}))


def _entries(cls: Any, classes: Mapping[str, type], prefix: str = "") -> Iterator[tuple[str, Entry]]:
    hints = get_type_hints(cls)
    for declared in fields(cls):
        hint = classes.get(declared.name, hints[declared.name])
        if is_dataclass(hint):
            yield from _entries(hint, {}, f"{prefix}{declared.name}.")
        elif prefix == "" or declared.name != "name":
            yield prefix + declared.name, Entry(declared.metadata["key"], hint)
