"""Every invalid configuration gives a one-line error with the key, the value and the allowed values."""

import importlib

import pytest

from conf import ConfigError, compose, preflight, recompose
from conf.schema import ROOT

UNKNOWN = {
    "strategy.c3=1": "unknown key strategy.c3; did you mean strategy.c2?",
    "lerning_rate=1": "unknown key lerning_rate; did you mean learning_rate?",
    "c1=0.2": "unknown key c1; did you mean strategy.c1?",
    "xyzzy=1": "unknown key xyzzy; --help lists all keys",
    "topology.p=0.3": "unknown key topology.p of topology=auto; it belongs to topology=er",
    "engine.name=ray": "unknown key engine.name; select a choice with engine=inline|ray|torch",
    "hydra.run.dir=x": "unknown key hydra.run.dir; did you mean run_dir?",
    "strategy=foo": (
        "strategy must be one of al_dsgd, all_reduce, d_psgd, fedbuff, fedcompass, matcha, over_selection; got foo"
    ),
    "engine=raay": "engine must be one of inline, ray, torch; got raay (did you mean ray?)",
    "engine=null": "engine must be one of inline, ray, torch; got null",
    "engine=": "engine must be one of inline, ray, torch; got nothing",
    "engine={a:1}": "engine must be one of inline, ray, torch; got {a:1}",
    "engine=inline engine.batched=yes": "engine.batched must be one of auto, true, false; got yes",
    "device=gpu": "device must be one of auto, cpu, cuda, mps, xpu; got gpu",
    "work.trigger=fast": "work.trigger must be one of fastest, quorum, deadline; got fast",
}
TYPES = {
    "rounds=1.5": "rounds must be an integer; got 1.5",
    "rounds=true": "rounds must be an integer; got true",
    "rounds=null": "rounds must be an integer; got null",
    "rounds=": "rounds must be an integer; got nothing",
    "strategy.c1=abc": "strategy.c1 must be a number; got abc",
    "task.train_limit=x": "task.train_limit must be an integer or null; got x",
    "task.download=3": "task.download must be true or false; got 3",
    "lr_milestones=[1,b]": "lr_milestones must be a list of integers; got [1,b]",
    "fleet.jitter=3": "fleet.jitter must be set key by key, as fleet.jitter.key=value; got 3",
    "fleet.jitter={a:1}": "fleet.jitter must be set key by key, as fleet.jitter.key=value; got {a:1}",
    "topology=edges topology.edges=3": "topology.edges must be a list of lists of integers; got 3",
    "partitioner.ratios=3": "partitioner.ratios must be one of equal, fleet, measured or a list of numbers; got 3",
    "partitioner.ratios=[1,a,1,1,1,1,1,1]": "partitioner.ratios must hold numbers; got a",
    "learning_rate=${nowhere}": "learning_rate: Interpolation key 'nowhere' not found",
}
GRAMMAR = {
    "seed": "an override must have the form key=value, with spaces and commas quoted; got seed",
    "seed='x": "an override must have the form key=value, with spaces and commas quoted; got seed='x",
    "run_dir=epoch=1": (
        "the value of run_dir must be in quotation marks because of '=', and these in others, since the shell removes "
        "one pair: \"run_dir='epoch=1'\"; got run_dir=epoch=1"
    ),
    "task.root=/home/jörg": (
        "the value of task.root must be in quotation marks because of 'ö', and these in others, since the shell "
        "removes one pair: \"task.root='/home/jörg'\"; got task.root=/home/jörg"
    ),
    "run_dir=~/runs": (
        "the value of run_dir must be in quotation marks because of '~', and these in others, since the shell removes "
        "one pair: \"run_dir='~/runs'\"; got run_dir=~/runs"
    ),
    "run_dir=a,b": (
        "run_dir must have one value, or quotation marks around its commas, \"run_dir='a,b'\"; got a,b (write a list "
        "as [1,2]; use --multirun for a sweep)"
    ),
    "+foo=1": "an override must have the form key=value; keys cannot be added or removed; got +foo=1",
    "~seed": "an override must have the form key=value; keys cannot be added or removed; got ~seed",
    "engine@x=ray": "an override must have the form key=value; keys cannot be added or removed; got engine@x=ray",
    "seed=0,1": "seed must have one value; got 0,1 (write a list as [1,2]; use --multirun for a sweep)",
    "model=cnn,mlp": "model must have one value; got cnn,mlp (write a list as [1,2]; use --multirun for a sweep)",
}
RANGES = {
    "strategy.c1=7.0": "strategy.c1 must lie in [0, 1); got 7.0",
    "strategy.communication_budget=0": "strategy.communication_budget must lie in (0, 1]; got 0.0",
    "work.quorum=1.1": "work.quorum must lie in (0, 1]; got 1.1",
    "workers=0": "workers must be at least 1; got 0",
    "seed=-1": "seed must lie in [0, 1e+18]; got -1",
    "learning_rate=0": "learning_rate must be above 0; got 0.0",
    "learning_rate=nan": "learning_rate must be finite; got nan",
    "fleet.speeds=[1,-1]": "fleet.speeds must be above 0; got -1.0",
    "fleet.jitter.factor=0.5": "fleet.jitter.factor must be at least 1; got 0.5",
    "lr_milestones=[5,0]": "lr_milestones must be at least 1; got 0",
    "partitioner.ratios=[1,1,1,1,1,1,1,0]": "partitioner.ratios must be above 0; got 0",
}
COMBINATIONS = {
    "partitioner.ratios=null": (
        "partitioner.ratios must be one of equal, fleet, measured or a list of numbers; got null"
    ),
    "resume=a run_dir=b": "run_dir must not be set with resume=a, the folder of the resumed run; got b",
}
REQUIRED = {
    "topology=edges": "topology.edges is required: pairs of ranks, such as [[0,1],[1,2]]",
    "partitioner=file": "partitioner.path is required: partition.npz of an earlier run",
}
DEFAULT = compose()


def items(*tables: dict[str, str]) -> list[tuple[str, str]]:
    return [item for table in tables for item in table.items()]


@pytest.mark.parametrize(("overrides", "message"), items(UNKNOWN, TYPES, GRAMMAR, REQUIRED))
def test_message_while_composing(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(overrides.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(("overrides", "message"), items(RANGES, COMBINATIONS))
def test_message_of_validation(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recompose(DEFAULT, overrides.split())  # the same checks as compose, but faster
    assert str(caught.value) == message


class TestPreflight:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["resume=nowhere"], "resume: no such file or directory: nowhere"),
            (["partitioner=file", "partitioner.path=p.npz"], "partitioner.path: no such file or directory: p.npz"),
            (["fleet=trace", "fleet.path=t.csv"], "fleet.path: no such file or directory: t.csv"),
            (
                ["partitioner.features=model", "partitioner.model_path=nowhere"],
                "partitioner.model_path: no such file or directory: nowhere",
            ),
            (["fleet=trace", "fleet.path=/"], "fleet.path must be a file; got /"),
            (["partitioner=file", "partitioner.path=/"], "partitioner.path must be a file; got /"),
            (["resume=README.md"], "resume must be a folder; got README.md"),
            (["task.root='~nobody-here/x'"], "task.root: no such home directory: ~nobody-here/x"),
        ],
    )
    def test_message(self, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT.parent)
        with pytest.raises(ConfigError) as caught:
            preflight(compose(overrides))
        assert str(caught.value) == message

    def test_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.import_module("conf.preflight"), "find_spec", lambda name: None)
        with pytest.raises(ConfigError) as caught:
            preflight(compose(["tracking=wandb"]))
        assert str(caught.value) == "tracking=wandb needs a package: pip install 'flwr-echelon[wandb]'"

    def test_default_passes(self) -> None:
        preflight(compose())
