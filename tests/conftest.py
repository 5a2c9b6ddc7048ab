"""Settings of all tests, and processes that many of them share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from echelon.persistent.watchdog import watched
from tests.installation import Installed, install

if TYPE_CHECKING:
    from tests.pool import Pool

# Time says nothing on a busy machine: a slow example is no failure.
settings.register_profile("echelon", deadline=None)
settings.load_profile("echelon")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that need many processes run one after the other."""
    for item in items:
        if "three" in getattr(item, "fixturenames", ()):
            item.add_marker("deployment")


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Processes that tests have started end with the tests, also if these are killed."""
    with watched():
        yield


@pytest.fixture(scope="session")
def three() -> "Iterator[Pool]":
    """Three processes of torch.distributed."""
    from tests.pool import Pool  # which imports torch

    pool = Pool(3)
    yield pool
    pool.end()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own."""
    return install(tmp_path_factory)


@pytest.fixture
def alone() -> "Iterator[None]":
    """Make the test's own process a process group of one."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()
