"""The examples in the docstrings of the public classes give what they show."""

import doctest

import pytest

import partitioners
from partitioners import REGISTRY, Partitioner

CLASSES: list[type] = [Partitioner, *REGISTRY.values()]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_example(cls: type) -> None:
    check(cls)


def test_example_of_the_adapter() -> None:
    pytest.importorskip("flwr_datasets", reason="needs the extra datasets")
    from partitioners.flwr_datasets_adapter import FlowerDatasetsPartitioner

    check(FlowerDatasetsPartitioner)


def check(cls: type) -> None:
    # Installed, the package is echelon.partitioners; a process of the checkout must not import it under both names.
    text = (cls.__doc__ or "").replace("from echelon.partitioners", f"from {partitioners.__name__}")
    example = doctest.DocTestParser().get_doctest(text, {}, cls.__name__, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
