"""Presets are overrides: each can be built, each key has its source, and all other overrides have precedence."""

import re

import numpy as np
import pytest

from app import strategy
from conf import ConfigError, compose, recompose
from conf.groups import DPSGD, Matcha
from conf.presets import NAMES, with_preset
from conf.reference import explain
from conf.schema import ROOT
from strategies import REGISTRY, Options


def test_names() -> None:
    assert NAMES == ("paper_al_dsgd", "paper_matcha", "paper_nb", "paper_rcd")


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_built(name: str) -> None:
    config = compose([f"preset={name}"])
    built = strategy.build(config, Options())
    assert type(built) is REGISTRY[config.strategy.name]
    built.lay_out(config.workers, np.ones(config.workers, dtype=np.int64))
    assert config.task.name == "cifar10"


@pytest.mark.parametrize("name", NAMES)
def test_every_key_has_its_source(name: str) -> None:
    lines = (ROOT / "preset" / f"{name}.yaml").read_text().splitlines()
    for line in lines:
        choice = re.fullmatch(r"(strategy|work): \w+", line)
        assert line.startswith("#") or choice or re.fullmatch(r"[\w.]+: .+  # .+", line), line


def test_values() -> None:
    config = compose(["preset=paper_rcd"])
    assert isinstance(config.strategy, Matcha)
    assert (config.learning_rate, config.batch_size, config.local_steps) == (0.8, 64, 2)
    assert config.strategy.communication_budget == 0.5
    assert config.proportional_batches
    assert compose(["preset=paper_al_dsgd"]).lr_milestones == [39100, 58650]


def test_other_overrides_have_precedence() -> None:
    for overrides in (["preset=paper_matcha", "rounds=5"], ["rounds=5", "preset=paper_matcha"]):
        config = compose(overrides)
        assert (config.rounds, config.learning_rate) == (5, 0.8)
    other = compose(["preset=paper_rcd", "strategy=d_psgd"])
    assert isinstance(other.strategy, DPSGD)
    assert other.local_steps == 2
    same = compose(["preset=paper_rcd", "strategy=matcha"])
    assert isinstance(same.strategy, Matcha)
    assert same.strategy.communication_budget == 0.5
    assert with_preset(["rounds=5"]) == ["rounds=5"]


def test_the_help_knows_it() -> None:
    assert "[matcha]" in explain(["preset=paper_matcha"])
    assert "  paper_nb: Non-blocking" in explain()


@pytest.mark.parametrize("overrides", [["preset=paper"], ["preset="], ["preset=paper_nb", "preset=paper_rcd"]])
def test_unknown_or_several(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"preset must be one of {', '.join(NAMES)}; got "):
        compose(overrides)


def test_not_in_a_resumed_run() -> None:
    with pytest.raises(ConfigError, match=r"preset must not be given in a resumed run, .*; got paper_nb"):
        recompose(compose(), ["preset=paper_nb"])
