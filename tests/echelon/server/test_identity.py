"""What Flower itself tells of nodes is enough to know them by their keys."""

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.superlink.grid import HttpGrid

from echelon.server.identity import Identities


@pytest.mark.skipif(not hasattr(HttpGrid, "get_nodes"), reason="this version of Flower tells no keys")
def test_keys_and_times_of_registration_as_a_superlink_tells_them() -> None:
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation import NoOpFederationManager

    link = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()).state()

    def register(key: bytes) -> int:
        return link.create_node("owner", "owner", key, 30.0)

    first, second = register(b"first"), register(b"second")
    grid: Any = SimpleNamespace(get_nodes=link.get_node_info)
    identities = Identities(grid)
    assert identities.by_seniority([second, first]) == [first, second]
    assert identities.objection(0, second) is None
    identities.bind(0, first)
    identities.complete()
    assert identities.objection(0, first) is None
    assert identities.objection(0, second) == "rank 0 belongs to another key"
    assert identities.objection(0, register(b"new")) is None
