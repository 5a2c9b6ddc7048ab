"""Who gets which rank: in the handshake, and when a node answers late or comes back."""

from collections.abc import Iterator
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from echelon.protocol.messages import CONFIG, METRICS, RosterEntry, TrainInstructions
from echelon.server.registration import Registration


class Network:
    """Nodes that are connected, and what those that answer the handshake say."""

    def __init__(self, answers: dict[int, int | None]) -> None:
        self.connected = list(answers)
        self.answers = {node: rank for node, rank in answers.items() if rank is not None}
        self.grid = SimpleNamespace(get_node_ids=lambda: list(self.connected))
        self.stop = Event()
        self.forgotten: list[int] = []
        self.packing: set[int] = set()
        self.busy_nodes: set[int] = set()
        self.forget = self.forgotten.append
        self.pack_for = self.packing.add

    def run(self, messages: Any, timeout: float, complete: Any) -> Iterator[Any]:
        asked = list(messages)
        return iter([answer(node, self.answers[node]) for node in asked if node in self.answers])

    def node_of(self, reply: Any) -> int:
        return int(reply.node)


def answer(node: int, rank: int, **options: Any) -> Any:
    return SimpleNamespace(node=node, has_error=lambda: False, content=RosterEntry(rank, 10, **options).to_content())


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Registration, "_query", lambda self, node: node)

    def register(answers: dict[int, int | None]) -> tuple[Registration, Network]:
        network = Network(answers)
        made = Registration(network, TrainInstructions(), ConfigRecord())  # type: ignore[arg-type]
        made.register(len(answers), 0.05)
        return made, network

    return register


def test_ranks_are_what_nodes_say(registered: Any) -> None:
    assert registered({100: 2, 200: 0, 300: 1})[0].roster.node_ids == [200, 300, 100]


def test_a_silent_node_gets_what_is_left_and_its_own_later(registered: Any) -> None:
    """Two were silent, and were given each other's rank."""
    made, _ = registered({100: None, 200: None, 300: 1})
    assert made.roster.node_ids == [100, 300, 200]
    made.admit(answer(100, 2))
    assert made.roster.node_ids == [200, 300, 100]


def test_no_worker_takes_the_rank_of_a_node_that_has_answered_and_is_there(registered: Any) -> None:
    """Not a newcomer, and not one that was silent and had been given another rank."""
    made, network = registered({100: 0, 200: 1, 300: None})
    made.admit(answer(300, 0))
    network.connected.append(400)
    made.admit(answer(400, 1))
    assert made.roster.node_ids == [100, 200, 300]


def test_a_node_that_comes_back_under_another_id_has_its_rank_again(registered: Any) -> None:
    made, network = registered({100: 0, 200: 1})
    network.connected = [100, 500]
    made.admit(answer(500, 1, packs=True))
    assert made.roster.node_ids == [100, 500]
    assert network.forgotten == [200]
    assert network.packing == {500}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bandwidth", 0.0),
        ("latency_seconds", float("inf")),
        ("latency_seconds", float("nan")),
        ("latency_seconds", -1.0),
        ("seconds_per_minibatch", 0.0),
        ("seconds_per_minibatch", float("inf")),
        ("samples_per_second", 0.0),
        ("rank", 1.5),
        ("num_examples", -3),
    ],
)
def test_impossible_numbers_are_refused(name: str, value: float) -> None:
    said = RosterEntry(0, 10).to_content()
    numbers = MetricRecord({**said.metric_records[METRICS], name: value})
    with pytest.raises(ValueError, match=name):
        RosterEntry.from_content(RecordDict({METRICS: numbers, CONFIG: said.config_records[CONFIG]}))


def test_speeds_may_be_unknown() -> None:
    assert RosterEntry.from_content(RosterEntry(0, 10).to_content()).rank == 0
