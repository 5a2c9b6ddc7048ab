"""Numbers that all processes gather, through the store."""

import os

import numpy as np
import pytest
from numpy.typing import NDArray

from echelon.peer.group import Group
from tests.pool import Pool

OWNERS = (2, 0, 1, 0, 2)
TABLE = np.array([[0.1, np.nan], [1e300, -0.0], [2**53 - 1, np.inf], [3.0, 1 / 3], [4.0, -4.0]])


def gathered(times: int) -> list[NDArray[np.float64]]:
    """Gather a table that is right only in the rows of this process's workers."""
    group = Group(OWNERS)
    tables = []
    for number in range(times):
        mine = np.full_like(TABLE, -1.0)
        mine[group.local] = TABLE[group.local] * (number + 1)
        tables.append(group.gather(mine))
    return tables


def test_every_process_gets_the_numbers_of_all(three: Pool) -> None:
    for _ in range(2):  # a second group does not meet what the first one has left
        for tables in three.call(gathered, 3):
            for number, table in enumerate(tables):
                np.testing.assert_array_equal(table, TABLE * (number + 1))


def without_a_store() -> None:
    kept = os.environ.pop("MASTER_ADDR")
    try:
        Group()
    finally:
        os.environ["MASTER_ADDR"] = kept


def test_without_a_store(three: Pool) -> None:
    with pytest.raises(ValueError, match="store must be given where MASTER_ADDR and MASTER_PORT are not set; got None"):
        three.call(without_a_store)


def test_every_process_has_a_worker(three: Pool) -> None:
    with pytest.raises(ValueError, match="owners must give every process a worker; process 1 has none"):
        three.call(Group, (0, 2, 2))


def test_without_a_process_group() -> None:
    with pytest.raises(RuntimeError, match=r"no process group: call torch\.distributed\.init_process_group first"):
        Group()
