"""Every choice of a strategy, built through the configuration."""

import inspect
from dataclasses import fields

import pytest

from app import strategy
from conf import compose, groups
from conf.schema import CHOICES
from strategies import REGISTRY, Options

OPTIONS = Options(held_out_loss=lambda arrays: 0.0)


def test_choices_are_the_registry() -> None:
    assert set(CHOICES["strategy"]) == set(REGISTRY)


@pytest.mark.parametrize("choice", CHOICES["strategy"])
def test_a_choice_gives_its_class_with_its_keys(choice: str) -> None:
    config = compose([f"strategy={choice}"])
    assert type(strategy.build(config, OPTIONS)) is REGISTRY[choice]
    # Options are not checked when the program runs: a key that is no parameter would vanish among them.
    own = {field.name for field in fields(CHOICES["strategy"][choice])} - {f.name for f in fields(groups.Strategy)}
    assert own <= set(inspect.signature(REGISTRY[choice]).parameters)


def test_a_changed_key_reaches_the_object() -> None:
    built = strategy.build(compose(["strategy=over_selection", "strategy.keep=0.5"]), OPTIONS)
    assert vars(built)["keep"] == 0.5
