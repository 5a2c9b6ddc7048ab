"""Nodes too many, and who has the rank of a node that is gone."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from strategies import DPSGD, Nodes, RosterError
from tests import tiny
from tests.grids import LateGrid

RING = partial(DPSGD, "ring")
START: dict[str, Any] = {"timeout": 0.05, "evaluate_fn": lambda server_round, arrays: None}
# LateGrid's nodes of the ranks 0, 1 and 2.
FIRST, SECOND, THIRD = 1003, 1002, 1001
EXTRA = 5
EARLY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    """Return the warnings that contain a text."""
    caplog.set_level(logging.WARNING, logger="flwr")
    return lambda text: [record.getMessage() for record in caplog.records if text in record.getMessage()]


def grid(extra: int | None = None) -> LateGrid:
    made = LateGrid(tiny.app(devices=tiny.fleet(1, 1, 1)), 3, lambda *message: False)
    if extra is not None:
        connect(made, EXTRA, extra)
    return made


def connect(on: LateGrid, node_id: int, rank: int, key: bytes = b"", registered: datetime = EARLY) -> None:
    on.connect(node_id, **{"partition-id": rank, "num-partitions": 3})
    if key:
        on.keys[node_id] = (key, registered)


def run(on: LateGrid, rounds: int = 3, events: dict[int, Callable[[], Any]] | None = None, **options: Any) -> tiny.Run:
    """Run three workers; ``events`` happen after rounds."""
    happens = [lambda record, state: (events or {}).get(record["round"], lambda: None)()]
    options = {"num_workers": 3, "roster_timeout": 5.0, "start": START, "on_round": happens, **options}
    return tiny.run(RING, rounds, 3, on=on, **options)


class TestANodeTooMany:
    @pytest.mark.parametrize(
        ("rank", "reason"),
        [
            (1, f"Node {SECOND} is left out: it claims rank 1, but node {EXTRA} has it"),
            (3, f"Node {EXTRA} is left out: it claims rank 3, but ranks are 0..2"),
            (99, f"Node {EXTRA} is left out: it claims rank 99, but ranks are 0..2"),
            (-1, f"Node {EXTRA} is left out: it claims no rank, and none is left for it"),
        ],
    )
    def test_does_not_stop_the_start(self, rank: int, reason: str, log: Any) -> None:
        known = run(grid())
        found = run(grid(rank))
        assert found.column("present") == [[0, 1, 2]] * 3
        assert found.rows.tobytes() == known.rows.tobytes()
        assert log("left out") == [reason], "named once, not in every round"

    def test_of_two_with_one_rank_the_one_registered_first_has_it(self, log: Any) -> None:
        on = grid()
        connect(on, EXTRA, 1, b"extra", EARLY + timedelta(hours=1))
        on.keys[SECOND] = (b"second", EARLY)
        assert run(on).strategy.roster.node_ids == [FIRST, SECOND, THIRD]
        assert log("left out") == [f"Node {EXTRA} is left out: it claims rank 1, but node {SECOND} has it"]

    def test_a_foreign_client_gets_no_rank_that_a_worker_claims(self, log: Any) -> None:
        """Its node id comes first, and it answers as fast as the others."""
        on, good = grid(), tiny.app(devices=tiny.fleet(1, 1, 1))

        def app(message: Any, context: Any) -> Any:
            if context.node_id == EXTRA and message.metadata.message_type.startswith("query"):
                raise ValueError("No query function registered with name 'roster'")
            return good(message, context)

        on._client_app = app  # type: ignore[assignment]
        connect(on, EXTRA, 0)
        assert run(on).strategy.roster.node_ids == [FIRST, SECOND, THIRD]
        assert log("left out") == [f"Node {EXTRA} is left out: it claims no rank, and none is left for it"]

    def test_one_that_does_not_answer_is_not_waited_for_much_longer_than_the_others(self) -> None:
        on = grid(2)
        on._hold = lambda rank, number, kind: rank == 9
        connect(on, 6, 9)
        assert run(on, roster_timeout=1e6).column("present") == [[0, 1, 2]] * 3


class TestMissingRanks:
    def test_are_named_with_what_the_other_nodes_claim(self, log: Any) -> None:
        on = grid(7)
        on.take_away(0)
        on.take_away(2)
        expected = (
            "waited 0.2 s: ranks 0, 2 have no node: start a SuperNode for each, with its rank in --node-config; "
            f"node {EXTRA} is left out: it claims rank 7, but ranks are 0..2"
        )
        with pytest.raises(RosterError) as error:
            run(on, roster_timeout=0.2)
        assert str(error.value) == expected
        assert len(log("Waiting for more nodes")) == 1

    def test_one(self) -> None:
        on = grid()
        on.take_away(2)
        with pytest.raises(RosterError, match=r"waited 0\.05 s: rank 2 has no node"):
            run(on, roster_timeout=0.05)

    def test_without_a_number_of_workers_nobody_is_waited_for(self) -> None:
        on = grid()
        on.take_away(2)
        connect(on, EXTRA, 1)
        with pytest.raises(RosterError, match=r"^rank 2 has no node.*node 1002 is left out"):
            run(on, num_workers=None, roster_timeout=1e6)

    def test_are_waited_for(self) -> None:
        """A node connects while the answers of the others are being collected."""
        on = grid()
        on.take_away(2)
        on._hold = lambda rank, number, kind: rank == 0 and kind.startswith("query")
        pull, polls = on.pull_messages, []

        def pulling(ids: Any) -> Any:
            polls.append(1)
            if len(polls) == 2:
                on.bring_back(2, 77)
            if len(polls) == 4:
                on.release()
            return pull(ids)

        on.pull_messages = pulling  # type: ignore[method-assign, assignment]
        found = run(on)
        assert found.strategy.roster.node_ids == [FIRST, SECOND, 77]
        assert [kind for kind, rank, _ in on.asked if kind.startswith("query")] == ["query.roster"] * 3


class TestTakeover:
    def test_a_spare_takes_the_rank_of_a_node_that_is_gone(self) -> None:
        """Where Flower tells no keys. The node that it replaced becomes the spare."""
        on = grid()
        connect(on, 2000, 1)
        events = {1: lambda: on.take_away(1), 3: lambda: on.connect(SECOND, **{"partition-id": 1, "num-partitions": 3})}
        # take_away finds the first node of rank 1: the one that has the rank.
        found = run(on, 6, {**events, 4: lambda: on._contexts.pop(2000)})
        assert found.column("present") == [[0, 1, 2], [0, 2], *[[0, 1, 2]] * 2, [0, 2], [0, 1, 2]]
        assert found.strategy.roster.node_ids == [FIRST, SECOND, THIRD]

    @pytest.mark.parametrize(
        ("key", "registered", "takes_over"),
        [
            (b"extra", EARLY, False),
            (b"extra", datetime.now(UTC) + timedelta(days=1), True),
            (b"second", EARLY, True),
        ],
        ids=["another key", "registered during the run", "the same key"],
    )
    @pytest.mark.parametrize("when", ["from the start", "later"])
    def test_with_keys(self, key: bytes, registered: datetime, takes_over: bool, when: str, log: Any) -> None:
        on = grid()
        on.keys |= {FIRST: (b"first", EARLY), SECOND: (b"second", EARLY), THIRD: (b"third", EARLY)}

        def join() -> None:
            connect(on, 2000, 1, key, registered)

        if when == "from the start":
            on.keys[SECOND] = (b"second", EARLY - timedelta(hours=1))
            join()
        found = run(on, 5, {1: lambda: on.take_away(1), 2: join if when == "later" else lambda: None})
        assert found.column("present")[-1] == ([0, 1, 2] if takes_over else [0, 2])
        if not takes_over and when == "later":
            assert log("left out") == ["Node 2000 is left out: it claims rank 1, but rank 1 belongs to another key"]

    def test_the_new_key_holds_the_rank_from_then_on(self) -> None:
        on = grid()
        on.keys |= {SECOND: (b"second", EARLY)}
        new = datetime.now(UTC) + timedelta(days=1)

        def replace() -> None:
            on.take_away(1)
            connect(on, 2000, 1, b"new", new)

        def usurp() -> None:
            on.take_away(1)
            connect(on, 2001, 1, b"old", EARLY)

        found = run(on, 6, {1: replace, 3: usurp})
        assert found.column("present") == [[0, 1, 2], [0, 2], [0, 1, 2], *[[0, 2]] * 3]


class TestConfiguredNodes:
    def test_only_they_have_the_ranks(self, log: Any) -> None:
        """An unlisted node is connected from the start, and another one comes when a worker is gone."""
        on = grid(1)

        def usurp() -> None:
            on.take_away(2)
            connect(on, 6, 2)

        found = run(on, 4, {1: usurp}, nodes=Nodes((FIRST, SECOND, THIRD), 3))
        assert found.strategy.roster.node_ids == [FIRST, SECOND, THIRD]
        assert found.column("present") == [[0, 1, 2], *[[0, 1]] * 3]
        assert [text.partition("but ")[2] for text in log("left out")] == [
            f"node {SECOND} has it",
            f"nodes gives rank 2 to node {THIRD}",
        ]

    def test_a_listed_spare_takes_any_rank(self) -> None:
        on = grid(1)
        on.keys |= {SECOND: (b"second", EARLY), EXTRA: (b"spare", EARLY)}
        found = run(on, 4, {1: lambda: on.take_away(1)}, nodes=Nodes((FIRST, SECOND, THIRD, EXTRA), 3))
        assert found.column("present") == [[0, 1, 2], [0, 2], *[[0, 1, 2]] * 2]
        assert found.strategy.roster.node_ids == [FIRST, EXTRA, THIRD]

    def test_a_node_that_claims_the_rank_of_another_one(self) -> None:
        with pytest.raises(RosterError, match=rf"ranks 0, 1 have no node.*nodes gives rank 1 to node {FIRST}"):
            run(grid(), nodes=Nodes((SECOND, FIRST, THIRD), 3), roster_timeout=0.05)

    def test_silent_nodes_get_their_own_ranks(self) -> None:
        """Not those that are left in the order of ids."""
        on = grid()
        on._hold = lambda rank, number, kind: rank < 2 and kind.startswith("query")
        found = run(on, 1, nodes=Nodes((FIRST, SECOND, THIRD), 3), roster_timeout=0.05)
        assert found.strategy.roster.node_ids == [FIRST, SECOND, THIRD]
        assert found.column("present") == [[2]]

    @pytest.mark.parametrize(
        ("ids", "reason"),
        [
            ((11, 12), "nodes must list the ids of 3 nodes, by rank; got 2"),
            ((11, 12, 13, 12), "nodes must list every id once; got 12 twice"),
        ],
    )
    def test_impossible_lists(self, ids: tuple[int, ...], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            Nodes(ids, 3)
