"""What a worker cannot make the server believe: impossible losses, counts and speeds."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord

from echelon.protocol.messages import RosterEntry, TrainInstructions, TrainReport
from echelon.server.plausibility import Plausibility, believed_entries
from echelon.server.replies import RejectedReplyError
from strategies import DPSGD, NonBlocking, Partition
from tests.strategies import scripted

LIMITS = Plausibility(minibatch_size=4, wall_clock=True)
SOUND = TrainReport(100, samples=16, minibatches=4, train_loss=0.5, seconds=1.0)
KNOWN = np.array([1.0, 1.0, 2.0, np.nan])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_loss": -1e-9}, r"train_loss must be at least 0 \(option loss_lower_bound\); got -1e-09"),
        ({"minibatches": 3}, r"minibatches must lie in \[4, 4\] for 16 samples; got 3"),
        ({"minibatches": 5}, r"minibatches must lie in \[4, 4\] for 16 samples; got 5"),
        ({"samples": 0}, r"minibatches must lie in \[0, 0\] for 0 samples; got 4"),
        ({"seconds": 2.5}, r"seconds must lie in \[0, 2\], the time since its message was sent; got 2.5"),
    ],
)
def test_what_cannot_be_true_is_refused(changes: dict[str, Any], reason: str) -> None:
    LIMITS.check(SOUND, 4, 2.0)
    with pytest.raises(RejectedReplyError, match=reason):
        LIMITS.check(replace(SOUND, **changes), 4, 2.0)


def test_what_may_be_true_is_not() -> None:
    Plausibility(4, loss_lower_bound=-math.inf).check(replace(SOUND, train_loss=-5.0), 4, 2.0)
    LIMITS.check(replace(SOUND, train_loss=math.nan, minibatches=0), 4, 2.0)
    Plausibility(4).check(replace(SOUND, seconds=1e6), 4, 2.0)  # a simulated clock does not follow the server's


def test_an_impossible_speed_counts_as_the_median_one() -> None:
    report, reason = LIMITS.believed(replace(SOUND, seconds=1e-9), KNOWN)
    assert report.seconds == 4.0
    assert reason is not None
    assert "seconds must be at least 0.04 for 16 samples" in reason
    assert reason.endswith("got 1e-09")


@pytest.mark.parametrize("known", [KNOWN, np.array([np.nan, 1.0, 1.0])])
def test_a_possible_speed_is_believed(known: np.ndarray[Any, Any]) -> None:
    for report in (SOUND, replace(SOUND, seconds=0.05), replace(SOUND, seconds=0.0), replace(SOUND, samples=0)):
        assert LIMITS.believed(report, known) == (report, None)


def test_of_two_speeds_nobody_can_tell_which_is_false() -> None:
    report = replace(SOUND, seconds=1e-9)
    assert LIMITS.believed(report, np.array([1.0, 1.0])) == (report, None)


def test_speeds_of_the_handshake() -> None:
    honest = [RosterEntry(rank, 10, 10.0, 0.4) for rank in range(3)]
    found = believed_entries([*honest, RosterEntry(3, 10, 1e12, 1e-12), RosterEntry(4)])
    assert found[:3] == honest
    assert found[3] == RosterEntry(3, 10, 10.0, 0.4)
    assert math.isnan(found[4].samples_per_second)


class TestRun:
    """Worker 3 of five reports what a test says; the others take 1 s per mini-batch."""

    def run(self, train_config: ConfigRecord | None = None, rounds: int = 3, **script: Any) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        work = NonBlocking(batch_size=16, minibatch_size=4)
        strategy = DPSGD(
            "ring",
            work=work,
            partition=Partition(),
            eval_every=99,
            on_round=[lambda record, state: records.append(record)],
        )
        grid = scripted.grid(scripted.Script((1.0,) * 5, **script))
        strategy.start(
            grid, scripted.model(), rounds, train_config=train_config, evaluate_fn=lambda number, arrays: None
        )
        return records

    def test_a_false_speed_does_not_end_the_rounds_of_all(self) -> None:
        def seconds(rank: int, instructions: TrainInstructions) -> float:
            return 1e-9 if rank == 3 and instructions.server_round > 1 else 4.0

        records = self.run(seconds=seconds)
        assert [record["budget_seconds"] for record in records] == [None, 4.0, 4.0]
        assert [list(record["disbelieved"]) for record in records] == [[], ["3"], ["3"]]
        assert [record["rejected"] for record in records] == [0, 0, 0]
        assert [record["round_seconds"] for record in records] == [4.0] * 3

    def test_a_negative_loss_is_refused(self) -> None:
        records = self.run(loss=lambda rank, instructions: -1e300 if rank == 3 else 1.0)
        assert [record["present"] for record in records] == [[0, 1, 2, 4]] * 3
        assert "train_loss must be at least 0" in records[0]["rejections"]["3"]

    def test_more_seconds_than_have_passed_are_refused(self) -> None:
        def seconds(rank: int, instructions: TrainInstructions) -> float:
            return 1e3 if rank == 3 else 1e-9

        records = self.run(ConfigRecord({"wall_clock": True}), rounds=1, seconds=seconds)
        assert "the time since its message was sent" in records[0]["rejections"]["3"]
        assert self.run(rounds=1, seconds=seconds)[0]["rejected"] == 0
