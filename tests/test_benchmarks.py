"""Smoke tests of the benchmarks that need no data."""

import argparse
import itertools
import json
import sys
from typing import Any

import numpy as np
import pytest
import torch

from app.task import load_task
from benchmarks import flat, matcha, mixing, partition_quality, partition_speed, peer, reporting, simulation, tracking
from benchmarks.experiments import gate, hero, liars, peers, selection, stragglers, waiting
from conf import compose
from echelon.algorithms.one_peer import OnePeer
from echelon.reports.run_folder import RunFolder
from strategies import DPSGD
from tests.pool import Pool
from tests.repository import ROOT


def called(module: Any, arguments: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments.split()])
    return module.main()


def test_matcha(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(matcha, "--workers 16 --degree 4 --budgets 0.5 --solvers", monkeypatch)
    assert "0.5" in capsys.readouterr().out


def test_mixing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(mixing, "--workers 4 --columns 1000 --repeats 1", monkeypatch)
    assert "torch" in capsys.readouterr().out


def test_reporting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(reporting, "--rounds 2 --round-seconds 0.01 --workers 4", monkeypatch)
    assert "progress=live" in capsys.readouterr().out


def test_simulation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(simulation, "--workers 2 --steps 2 --batch 4 --rounds 2", monkeypatch)
    printed = capsys.readouterr().out
    assert "| `mlp` | 2 | 2 |" in printed
    assert "| `cnn` | 2 | 2 |" in printed


def test_peer(three: Pool) -> None:
    for medians in three.call(peer.of_size, 0.01, 2):
        assert {peer.BARE, peer.AVERAGED, peer.EXCHANGED, peer.RING, peer.PAIRS} <= medians.keys()
        assert all((median > 0).all() for median in medians.values())


def test_peers_reach_the_loss(three: Pool) -> None:
    found = three.call(peers.run, DPSGD("ring", work=peers.WORK[1]), 0, 2, 2.2)
    assert found[0] == found[1] == found[2]
    seconds, rounds, speed = found[0]
    assert 1 <= rounds < peers.MOST_ROUNDS
    assert seconds * speed >= rounds * peers.BATCH * 0.99


def test_partition_quality(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(partition_quality, "--tasks digits --features raw --train-limit 400", monkeypatch)
    assert "min_value" in capsys.readouterr().out


def test_partition_speed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(partition_speed, "--parts large many --repeats 1 --samples 300 --classes 2", monkeypatch)
    assert capsys.readouterr().out.count("CPU-s") == 4
    partition_speed.in_pieces(partition_speed.clusters(1, 160)[0], 1)
    assert capsys.readouterr().out.count("nearest similarity") == 5


def test_leaders_in_two_situations(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    situations = ("different initial models", "one bad worker")
    monkeypatch.setattr(gate, "SITUATIONS", {name: gate.SITUATIONS[name] for name in situations})
    monkeypatch.setattr(gate, "LEADERS", {name: gate.LEADERS[name] for name in ("none", "held_out, gate")})
    called(gate, f"--out {tmp_path} --seeds 1 --jobs 1 task=digits rounds=3 eval_every=3", monkeypatch)
    assert capsys.readouterr().out.count("| held_out, gate |") == 2
    starts = [RunFolder.open(tmp_path / f"gate/{s.replace(' ', '_')}/none/0").metrics[0] for s in situations]
    assert starts[0]["consensus_distance"] > 2 * starts[1]["consensus_distance"]


def test_wrong_labels() -> None:
    config = compose(["task=digits", "model=mlp"])
    whole, indices = load_task(config, None).train.y, torch.arange(1000)
    for share in (0.7, 1.0):
        labels = gate.Mislabelled(config, share).batch(indices, np.random.default_rng(0))[1]
        assert float((labels != whole[:1000]).double().mean()) == pytest.approx(share, abs=0.04)


def test_every_seed_has_a_pool_of_its_own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.load", lambda name, root: load_task(compose(["task=digits"]), None))
    pattern = selection.pools(argparse.Namespace(out=tmp_path, root=None, seeds=2), 40)
    pools = [np.load(pattern.format(seed=seed)) for seed in range(2)]
    for pool in pools:
        assert np.bincount(pool["y_train"]).tolist() == [4] * 10
    assert not np.array_equal(pools[0]["x_train"], pools[1]["x_train"])


@pytest.mark.parametrize("mixed", [False, True])
def test_tracking_on_one_peer_grows_as_calculated(mixed: bool) -> None:
    """By the definition, on 16 workers with curvature 0.5, learning rate 1 and momentum 0.9."""
    schedule = OnePeer(16)
    x, c, v = np.random.default_rng(0).normal(size=(16, 3)), np.zeros((16, 3)), np.zeros((16, 3))
    norms = []
    for index in range(400):
        matrix = np.asarray(schedule.matrix(index))
        gradient = 0.5 * x + c
        v = 0.9 * v + gradient
        x, c = matrix @ (x - v), c - gradient + matrix @ gradient
        v = matrix @ v if mixed else v
        norms.append(np.linalg.norm([x - x.mean(axis=0), c, v - v.mean(axis=0)]))
    grown = (norms[399] / norms[199]) ** (1 / 200)
    worst = max(tracking.factor(each, 0.5, 0.9, mixed=mixed) for each in tracking.spectra()["one-peer"])
    assert grown == pytest.approx(worst, abs=2e-3)


def test_an_experiment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stragglers, "TASKS", {"digits": stragglers.TASKS["digits"]})
    monkeypatch.setattr(stragglers, "SHARDS", {"iid": stragglers.SHARDS["iid"]})
    monkeypatch.setattr(stragglers, "MIXINGS", {"all_reduce": stragglers.MIXINGS["all_reduce"]})
    monkeypatch.setattr(stragglers, "ESTIMATORS", ("nominal",))
    called(stragglers, f"--out {tmp_path} --seeds 1 --jobs 1 rounds=12", monkeypatch)
    printed = capsys.readouterr().out
    for row in ("all_reduce, blocking", "all_reduce, non_blocking", "over_selection", "fedbuff", "nominal"):
        assert f"| {row} |" in printed


def test_waiting(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {name: waiting.CASES[name] for name in ("memory", "fedcompass")}
    monkeypatch.setattr(waiting, "CASES", cases)
    monkeypatch.setattr(waiting, "ACCURACIES", {"digits": 0.9})
    called(waiting, f"--out {tmp_path} --seeds 1 --jobs 1 rounds=10", monkeypatch)
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in cases)


def test_the_hero(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(hero, f"--out {tmp_path} --jobs 1 rounds=5 eval_every=5", monkeypatch)
    found = json.loads((tmp_path / "hero.json").read_text())
    assert (tmp_path / "hero.png").stat().st_size > 10_000
    assert found["blocking"]["virtual_seconds"] > 2 * found["non_blocking"]["virtual_seconds"]
    assert found["blocking"]["idle"] > 40 > found["non_blocking"]["idle"]


def test_the_hero_in_the_readme() -> None:
    """The numbers of the README are those of the command that it names."""
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    blocking, non_blocking = json.loads((ROOT / hero.RESULTS).read_text(encoding="utf-8")).values()
    for run in (blocking, non_blocking):
        assert f"{run['virtual_seconds']:.1f} virtual seconds" in readme
        assert f"{run['idle']:.0f} %" in readme
    assert f"{blocking['accuracy']:.1f} % accuracy" in readme
    assert f"{non_blocking['accuracy']:.1f} % after {non_blocking['virtual_seconds']:.1f}" in readme


def test_the_liars(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every lie, one round each; what is in the file is not run again."""
    monkeypatch.setattr(liars, "STRATEGIES", {"al_dsgd": liars.STRATEGIES["al_dsgd"]})
    monkeypatch.setattr(liars, "SHARDS", {"iid": liars.SHARDS["iid"]})
    out = tmp_path / "liars.jsonl"
    called(liars, f"--out {out} --seeds 1 rounds=1 task.train_limit=200 task.test_limit=50", monkeypatch)
    found = liars.results(out)
    assert {(run.strategy, run.robust, run.lie) for run in found} == set(
        itertools.product(("al_dsgd",), (False, True), liars.LIES)
    )
    first = capsys.readouterr()
    assert "| al_dsgd | yes | " in first.out
    monkeypatch.setattr(liars, "honest_accuracy", None)
    called(liars, f"--out {out} --seeds 1", monkeypatch)
    assert capsys.readouterr().out == first.out


def test_a_liar_ruins_a_run_that_is_not_robust() -> None:
    """Zeros from one of eight workers, ten rounds of AL-DSGD."""
    shorter = ["rounds=10", "minibatch_size=32", "learning_rate=0.1"]
    lied, robust = (
        liars.honest_accuracy(liars.Run("iid", "false loss, zeros", "al_dsgd", robust, 0), shorter)
        for robust in (False, True)
    )
    assert lied < 0.3
    assert robust > 0.7


def test_growth_is_seen() -> None:
    """Rounds 1 to 100; a descriptor is left open in every round."""
    samples = [flat.Sample(number, 100.0, number, 2.0) for number in range(1, 101)]
    assert flat.summary(samples) == [
        ["memory, MB", "100.0", "100.0", "1.00"],
        ["descriptors", "38.0", "87.5", "2.30"],
        ["/dev/shm, MB", "2.0", "2.0", "1.00"],
    ]
