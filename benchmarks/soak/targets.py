"""The targets by name: one row enrols a target."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.soak.command import Command
from benchmarks.soak.deployment import Deployment
from benchmarks.soak.hostile import Hostile
from benchmarks.soak.ranks import Ranks
from benchmarks.soak.target import Target

TARGETS: dict[str, Callable[[str, Path], Target]] = {
    "hostile": Hostile,
    "command": Command,
    "ray": Command,
    "deployment": Deployment,
    # SIGKILL alone, at random moments.
    "kill-command": Command,
    "kill-ray": Command,
    "kill-supernode": Deployment,
    "kill-serverapp": Deployment,
    "kill-superlink": Deployment,
    # A full disk alone, at random moments; only root may mount one.
    "disk-ray": Command,
    "disk-deployment": Deployment,
    # Of engine=torch: a process killed or stopped.
    "kill-rank": Ranks,
}
