"""Runs that do not fit into the memory are refused before anything is allocated; those that fit are not."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from app.checks import check
from conf import ConfigError, compose

_MATRICES = "(mixing matrices"
HUGE = {
    "workers=1000000000": "workers=1000000000 with topology=auto",
    "workers=1000000000 strategy=all_reduce": "needs at least 104.0 GB of memory (numbers of the workers)",
    "workers=1000000000 strategy=fedbuff": f"needs at least 8,000,000,250.0 GB of memory {_MATRICES}",
    "workers=1000000000 strategy=over_selection partitioner=local": "GB are free: lower workers",
    "workers=300000 strategy=d_psgd topology=ring partitioner=local": "workers=300000 with topology=ring needs",
    "workers=300000 strategy=d_psgd topology=exponential": _MATRICES,
    "workers=20000 strategy=matcha topology=star": _MATRICES,
    "workers=4000 strategy=matcha topology=complete": _MATRICES,
    "workers=4000 strategy.base=matcha topology=er topology.p=0.9": _MATRICES,
    "workers=4000 strategy=matcha topology=geometric topology.radius=1e300": _MATRICES,
    "workers=4000 strategy=matcha topology=regular topology.degree=3999": _MATRICES,
    "workers=1000000 strategy=matcha topology=edges topology.edges=[[0,1]]": "with topology=edges",
    "topology=ring topology.schedule=rotation topology.rotate=1000000000": "workers=8 and",
    "batch_size=1000000000000": "batch_size=1000000000000 with local_steps=1 and minibatch_size=8",
    "local_steps=1000000000000": "batch_size=64 with local_steps=1000000000000 and",
    "partitioner=shards partitioner.classes_per_worker=1000000000000": "classes_per_worker=1000000000000 for workers=8",
}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echelon.core.memory.available", lambda: 100 * 10**9)


@pytest.mark.parametrize(("overrides", "message"), HUGE.items())
def test_is_refused_in_one_line(overrides: str, message: str) -> None:
    config = compose(overrides.split())
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError) as caught:
            check(config)
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()
    assert message.removesuffix(" and") in str(caught.value)
    assert "\n" not in str(caught.value)


def _data(folder: Path, side: int) -> Path:
    """Write two classes of 1000 training samples."""
    path = folder / "own.npz"
    x, y = np.zeros((2000, side, side), np.uint8), np.arange(2000) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x[:10], y_test=y[:10], classes=["a", "b"])
    return path


class TestFree:
    """The same run with less memory."""

    def refuses(self, monkeypatch: pytest.MonkeyPatch, free: int, message: str, *overrides: str) -> None:
        config = compose(["topology=ring", *overrides])
        check(config)
        monkeypatch.setattr("echelon.core.memory.available", lambda: free)
        with pytest.raises(ConfigError, match=message):
            check(config)

    def test_models(self, monkeypatch: pytest.MonkeyPatch) -> None:
        message = (
            r"^model=vgg16 for workers=8 needs at least .*\(models .*, optimisers of a round .*choose a smaller model"
        )
        self.refuses(monkeypatch, 10**9, message, "model=vgg16", "task=cifar10", "partitioner=local")

    def test_momentum_doubles_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen = ("model=vgg16", "task=cifar10", "partitioner=local")
        self.refuses(monkeypatch, 15 * 10**8, "^model=vgg16 for workers=8 needs at least", *chosen)
        check(compose(["topology=ring", *chosen, "momentum=0"]))

    def test_features(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        chosen = ("task=npz", f"task.root={_data(tmp_path, side=64)}", "partitioner=iid", "workers=2")
        message = r"^task=npz of 2000 samples needs at least 65\.5 MB of memory .*lower task\.train_limit"
        self.refuses(monkeypatch, 3 * 10**7, message, *chosen, "report=full")
        check(compose(["topology=ring", *chosen]))  # compares no samples

    def test_similarities(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        chosen = (
            "task=npz",
            f"task.root={_data(tmp_path, side=4)}",
            "partitioner.jobs=64",
            "workers=2",
            "strategy=d_psgd",
        )
        message = (
            r"^partitioner=submodular on class 0 with its 1000 samples with 2 classes at a time needs at least 8\.0"
        )
        self.refuses(monkeypatch, 7 * 10**6, message, *chosen)
        check(compose(["topology=ring", *chosen, "task.train_limit=100"]))

    def test_a_worker_elsewhere_has_its_own_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = compose(["topology=ring", "batch_size=1000000000000"])
        check(config, deployed=True)
        with pytest.raises(ConfigError, match=r"^batch_size=1000000000000"):
            check(config)
