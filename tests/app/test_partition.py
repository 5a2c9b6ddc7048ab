"""From the configuration to a partitioner: every choice gives the class in its row of the registry."""

import inspect
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import tasks
from app.features import KEYS as FEATURE_KEYS
from app.features import compared_features
from app.partition import build_partitioner, is_local, make_partition, to_partition
from conf import Config, compose, groups
from conf.schema import CHOICES
from echelon.reports import progress
from partitioners import REGISTRY, ByGroupPartitioner, SubmodularPartitioner
from strategies import Roster
from tasks import Task

MUST_BE_GIVEN = {"file": ["partitioner.path=earlier/partition.npz"], "by_group": ["task=mitbih"]}
POOL = np.arange(0, 100, 2)


@pytest.fixture
def task() -> Task:
    """A task with groups."""
    digits = tasks.load("digits", train_limit=100)
    count = len(digits.train)
    return replace(digits, train=replace(digits.train, groups=digits.train.y.new_tensor(range(count)) // 4))


def test_every_choice_but_local_is_registered() -> None:
    assert set(CHOICES["partitioner"]) == {*REGISTRY, "local"}


@pytest.mark.parametrize("choice", CHOICES["partitioner"])
def test_every_choice_builds_its_class(choice: str, task: Task) -> None:
    config = compose([f"partitioner={choice}", "topology=ring", *MUST_BE_GIVEN.get(choice, [])])
    assert is_local(config) == (choice == "local")
    if is_local(config):
        return

    partitioner = build_partitioner(config, task, POOL)

    assert type(partitioner) is REGISTRY[choice]


@pytest.mark.parametrize("choice", REGISTRY)
def test_every_key_is_a_parameter_of_the_class_or_says_how_to_compute_features(choice: str) -> None:
    shared = {field.name for field in fields(groups.Partitioner)}
    own = {field.name for field in fields(CHOICES["partitioner"][choice])} - shared
    parameters = set(inspect.signature(REGISTRY[choice]).parameters)

    assert own - parameters == (FEATURE_KEYS if REGISTRY[choice].needs_features else set())


def test_keys_and_progress_reach_the_partitioner(task: Task) -> None:
    config = compose(["partitioner=submodular", "partitioner.lam=0.4", "partitioner.jobs=3", "topology=ring"])

    def advance(done: int, total: int) -> None: ...

    partitioner = build_partitioner(config, task, POOL, advance)

    assert partitioner == SubmodularPartitioner(lam=0.4, jobs=3, max_kernel_bytes=10**9, progress=advance)


def test_groups_are_those_of_the_pool(task: Task) -> None:
    partitioner = build_partitioner(compose(["partitioner=by_group", "task=mitbih", "topology=ring"]), task, POOL)

    assert isinstance(partitioner, ByGroupPartitioner)
    assert np.asarray(partitioner.groups).tolist() == (POOL // 4).tolist()


FEATURES = {"mmd2", "random_mmd2", "coverage", "neighbour_accuracy", "projection"}


@pytest.mark.parametrize("choice", ["iid", "submodular"])
@pytest.mark.parametrize("report", ["auto", "full", "none"])
def test_the_quality_of_a_partition_is_measured_as_far_as_asked_for(
    report: str, choice: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose([f"partitioner={choice}", "topology=ring", "workers=4", f"report={report}"])
    computed: list[Config] = []

    def noted(config: Config, task: Task) -> np.ndarray:
        computed.append(config)
        return compared_features(config, task)

    monkeypatch.setattr("app.partition.compared_features", noted)
    with progress.make("none") as view:
        partition = make_partition(config, task, tmp_path, view, Roster([], []))

    described = json.loads((tmp_path / "partition.json").read_text())
    assert described["sizes"] == [len(part) for part in partition.parts or ()]
    assert np.sum(described["class_counts"]) == len(to_partition(config, len(task.train)))
    assert (described["quality"] is None) == (report == "none")
    assert FEATURES & set(described["quality"] or ()) == (FEATURES if report == "full" else set())
    assert bool(computed) == (report == "full" or choice == "submodular")


def test_a_task_without_groups() -> None:
    config = compose(["partitioner=by_group", "task=mitbih", "topology=ring"])

    with pytest.raises(ValueError, match="partitioner=by_group needs a task with groups; digits has none"):
        build_partitioner(config, tasks.load("digits"), POOL)
