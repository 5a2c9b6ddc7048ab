from collections.abc import Callable

import pytest

from echelon.reports.run_folder import RunFolder
from tests.echelon.reports.synthetic import write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished AL-DSGD run of 8 workers; do not write into it."""
    return write_run(tmp_path_factory.mktemp("session") / "run")


@pytest.fixture
def make_run() -> Callable[..., RunFolder]:
    """The generator itself, for other shapes of runs."""
    return write_run
