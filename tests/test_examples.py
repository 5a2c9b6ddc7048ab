"""The examples in docstrings print what they show, and every public class has one."""

import doctest
import importlib.util
import pkgutil

import pytest

import echelon
import partitioners

NAMES = [
    info.name
    for package in (echelon, partitioners)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not info.name.endswith("__main__")
]


def examples(name: str) -> list[doctest.DocTest]:
    """Return the examples in the docstrings of a module."""
    if name.endswith("flwr_datasets_adapter") and importlib.util.find_spec("flwr_datasets") is None:
        pytest.skip("needs the extra datasets")
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(name), globs={}) if test.examples]


@pytest.mark.parametrize("name", NAMES)
def test_examples_print_what_they_show(name: str) -> None:
    for test in examples(name):
        for example in test.examples:
            # Installed, the package is echelon.partitioners; no process may import it under both names.
            example.source = example.source.replace("from echelon.partitioners", "from partitioners")
        assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("name", [name for name in partitioners.__all__ if name != "REGISTRY"])
def test_every_public_class_has_an_example(name: str) -> None:
    assert ">>> " in (getattr(partitioners, name).__doc__ or "")
