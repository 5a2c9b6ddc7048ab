"""Every choice of a strategy, built through the configuration."""

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
    built = strategy.build(config, OPTIONS)
    assert type(built) is REGISTRY[choice]
    shared = {field.name for field in fields(groups.Strategy)}
    for name, value in vars(config.strategy).items():
        if name not in shared and hasattr(built, name) and isinstance(value, int | float):
            assert getattr(built, name) == value, f"strategy.{name}"


def test_a_changed_key_reaches_the_object() -> None:
    built = strategy.build(compose(["strategy=over_selection", "strategy.keep=0.5"]), OPTIONS)
    assert vars(built)["keep"] == 0.5
