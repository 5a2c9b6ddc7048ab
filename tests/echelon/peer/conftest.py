"""Processes of torch.distributed, started once for all tests of this folder."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from tests.echelon.peer.pool import Pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that need the processes run one after the other."""
    for item in items:
        if "three" in getattr(item, "fixturenames", ()):
            item.add_marker("deployment")


@pytest.fixture(scope="session")
def three() -> Iterator[Pool]:
    pool = Pool(3)
    yield pool
    pool.end()


@pytest.fixture
def alone() -> Iterator[None]:
    """Make the test's own process a process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()
