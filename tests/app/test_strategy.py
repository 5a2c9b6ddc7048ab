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
    config = compose([f"strategy={choice}", "work=full_batch"])
    assert type(strategy.build(config, OPTIONS)) is REGISTRY[choice]
    # Options are not checked when the program runs: a key that is no parameter would vanish among them.
    shared = {f.name for f in fields(groups.Synchronous)}
    own = {field.name for field in fields(CHOICES["strategy"][choice])} - shared
    assert own <= set(inspect.signature(REGISTRY[choice]).parameters)


def test_waits_reach_the_object_on_real_devices_only() -> None:
    config = compose(
        ["work.grace=7", "work.adapt_grace=false", "work.max_empty_rounds=5", "deployment.roster_timeout=9"]
    )
    deployed, simulated = (strategy.build(config, OPTIONS, wall_clock=wall) for wall in (True, False))
    assert (deployed.grace_seconds, deployed.adapt_grace) == (7.0, False)
    assert simulated.grace_seconds == float("inf")
    assert {built._rounds.max_empty for built in (deployed, simulated)} == {5}
    assert deployed._options["roster_timeout"] == 9.0


def test_a_changed_key_reaches_the_object() -> None:
    built = strategy.build(compose(["strategy=over_selection", "strategy.keep=0.5"]), OPTIONS)
    assert vars(built)["keep"] == 0.5
