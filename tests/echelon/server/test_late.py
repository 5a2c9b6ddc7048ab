"""Silent workers, late replies, nodes that go and come: through a Grid that holds replies back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from clients.model import FlatModel
from echelon.algorithms.partial import Cursor, upcoming
from strategies import DPSGD, AllReduce, AllWorkersFailedError, FullBatch, NonBlocking, NormLimit, Partition
from tests import tiny
from tests.grids import LateGrid

NO_EVALUATION: dict[str, Any] = {"evaluate_fn": lambda server_round, arrays: None}
SHORT = {"timeout": 0.05, **NO_EVALUATION}
WORK = FullBatch(batch_size=16, minibatch_size=4)
RING = partial(DPSGD, "ring")


def late(hold: Callable[[int, int, str], bool]) -> LateGrid:
    return LateGrid(tiny.app(devices=tiny.fleet(1)), 4, hold)


def second_round_of_one(rank: int, number: int, kind: str) -> bool:
    return kind == "train" and rank == 1 and number == 2


def releasing(grid: LateGrid, after: int) -> list[Any]:
    return [lambda record, state: grid.release() if record["round"] == after else None]


class TestDiscarded:
    def run(self, rounds: int = 5, make: Any = RING, **options: Any) -> tuple[tiny.Run, LateGrid]:
        grid = late(second_round_of_one)
        on_round = releasing(grid, 3)
        return tiny.run(make, rounds, on=grid, work=WORK, on_round=on_round, start=SHORT, **options), grid

    def test_the_worker_is_absent_and_re_enters_by_itself(self) -> None:
        run, grid = self.run()
        assert run.column("present") == [[0, 1, 2, 3], [0, 2, 3], [0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
        assert run.column("late") == [[], [1], [], [], []]
        assert run.column("rejected") == [0] * 5
        assert [number for kind, rank, number in grid.asked if rank == 1 and kind == "train"] == [1, 2, 4, 5]

    def test_its_work_is_lost_and_its_cursor_stays(self) -> None:
        """The run equals one in which the worker was not there in rounds 2 and 3."""
        run, _ = self.run()
        assert run.strategy.state.cursors[1].tolist() == [2, 0]  # three rounds of 16 samples in a shard of 24
        assert run.strategy.state.samples == 16 * (4 + 3 + 3 + 4 + 4)

        class Skipping(LateGrid):
            """Does not know worker 1's node in rounds 2 and 3."""

            def get_node_ids(self) -> list[int]:
                there = list(super().get_node_ids())
                return [node for node in there if self.ranks[node] != 1] if 1 <= self.rounds_done <= 2 else there

            rounds_done = 0

        grid = Skipping(tiny.app(devices=tiny.fleet(1)), 4, lambda *message: False)
        without = tiny.run(
            RING,
            5,
            on=grid,
            work=WORK,
            on_round=[lambda record, state: setattr(grid, "rounds_done", record["round"])],
            start=SHORT,
        )
        assert without.column("present") == run.column("present")
        np.testing.assert_array_equal(without.rows, run.rows)

    def test_a_late_reply_is_not_taken_for_this_rounds(self) -> None:
        """It arrives between two rounds, just as the next one begins, in which the worker is asked again."""
        grid = late(second_round_of_one)
        run = tiny.run(RING, 4, on=grid, work=WORK, on_round=releasing(grid, 2), start=SHORT)
        assert run.column("present")[2:] == [[0, 1, 2, 3]] * 2
        assert run.strategy.state.cursors[1].tolist() == [2, 0]
        asked = [number for kind, rank, number in grid.asked if rank == 1 and kind == "train"]
        assert asked == [1, 2, 3, 4]

    def test_all_reduce_gives_the_average_to_the_absent_too(self) -> None:
        run, _ = self.run(rounds=2, make=AllReduce)
        assert len({row.tobytes() for row in run.rows}) == 1


def adapted(rows: Any) -> Any:
    """Return the Y of X+ = W Y, for the ring of four with everybody present."""
    opposite = np.roll(np.eye(4), 2, axis=0)
    return np.linalg.solve((1 - opposite) / 3, rows)


class TestFoldedIn:
    def run(self, hold: Any = second_round_of_one, rounds: int = 5, **options: Any) -> tuple[tiny.Run, LateGrid]:
        grid = late(hold)
        options = {"on_round": releasing(grid, 3), "start": SHORT, **options}
        return tiny.run(RING, rounds, on=grid, work=WORK, fold_late=True, **options), grid

    def test_it_counts_in_the_round_in_which_it_arrives(self) -> None:
        run, grid = self.run()
        assert run.column("present") == [[0, 1, 2, 3], [0, 2, 3], [0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
        asked = [number for kind, rank, number in grid.asked if rank == 1 and kind == "train"]
        assert asked == [1, 2, 5], "the round that folds a reply in does not ask the worker for another one"
        assert run.strategy.state.cursors[1].tolist() == [2, 0]
        assert run.records[3]["samples"] == [16] * 4
        assert run.records[3]["idle_share"][1] is None, "it was computed in earlier rounds"

    def test_the_update_is_carried_over_to_the_row_of_now(self) -> None:
        """y - x of round 2 is added, in round 4, to the row that mixing has moved since."""
        _, rows = self.rows_by_round(late(second_round_of_one), 4)
        _, prompt = self.rows_by_round(late(lambda *message: False), 2)
        update = adapted(prompt[2])[1] - prompt[1][1]
        np.testing.assert_allclose(adapted(rows[4])[1], rows[3][1] + update, atol=1e-5)

    def test_a_late_failure_leaves_nothing_behind(self) -> None:
        """The row remembered for it must not be used for the reply after it, which starts from the row of now."""
        grid = late(second_round_of_one)
        good = grid._client_app

        def app(message: Any, context: Any) -> Any:
            if context.node_config["partition-id"] == 1 and message.metadata.group_id == "2":
                raise OSError("lost its disk")
            return good(message, context)

        grid._client_app = app  # type: ignore[assignment]
        run, rows = self.rows_by_round(grid, 5)
        assert run.column("rejected") == [0, 0, 0, 1, 0]
        assert run.records[3]["rejections"] == {"1": "error 2: OSError: lost its disk"}
        np.testing.assert_allclose(adapted(rows[5])[1], rows[4][1] + self.step(rows[4][1]), atol=1e-5)

    def rows_by_round(self, grid: LateGrid, rounds: int) -> tuple[tiny.Run, list[Any]]:
        rows: list[Any] = [None]
        on_round = [lambda record, state: rows.append(state.rows.astype(float)), *releasing(grid, 3)]
        run = tiny.run(RING, rounds, on=grid, work=WORK, fold_late=True, on_round=on_round, start=SHORT)
        return run, rows

    def step(self, row: Any) -> Any:
        """What worker 1's second batch adds to its row."""
        parts = tiny.partition(4).parts
        assert parts is not None
        batch = parts[1][upcoming(0, 1, Cursor(0, 16), 24, 16)]
        x, y = tiny.data()
        model = FlatModel(tiny.linear())
        model.parameters.copy_(torch.from_numpy(row))
        torch.autograd.backward(functional.cross_entropy(model.module(x[batch]), y[batch]))
        return -0.2 * model.gradients.numpy()

    def test_norm_limit_bounds_the_late_update_itself(self) -> None:
        """Not the way that mixing has moved the row meanwhile: nothing is refused that was short enough."""
        limit = NormLimit(0.4, "reject")
        assert self.run(norm_limit=limit)[0].column("rejected") == [0] * 5

    def test_replies_that_arrive_during_evaluation_are_kept(self) -> None:
        """The workers evaluate between the rounds: a late reply to training must survive that."""
        grid = late(second_round_of_one)
        original = grid.push_messages

        def push(messages: Any) -> Any:
            taken = list(messages)
            if any(message.metadata.message_type == "evaluate" for message in taken):
                grid.release()
            return original(taken)

        grid.push_messages = push  # type: ignore[method-assign]
        run = tiny.run(RING, 4, on=grid, work=WORK, fold_late=True, eval_every=2, start={"timeout": 0.05})
        assert run.column("present") == [[0, 1, 2, 3], [0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
        asked = [number for kind, rank, number in grid.asked if rank == 1 and kind == "train"]
        assert asked == [1, 2, 4]

    def test_late_answers_to_evaluation_are_not_taken_for_training(self) -> None:
        grid = late(lambda rank, number, kind: kind == "evaluate" and rank == 1)
        on_round = releasing(grid, 1)
        run = tiny.run(
            RING, 3, on=grid, work=WORK, fold_late=True, eval_every=1, on_round=on_round, start={"timeout": 0.05}
        )
        assert run.column("rejected") == [0] * 3


class TestAllWorkersAreSlow:
    def test_the_first_reply_is_awaited(self) -> None:
        """Budget and grace are over before anybody has answered: the round takes longer, the run does not end."""
        polls = {"count": 0}
        grid = late(lambda rank, number, kind: kind == "train" and number == 1)
        pull = grid.pull_messages

        def slowly(ids: Any) -> Any:
            polls["count"] += 1
            if polls["count"] > 12:
                grid.release()
            return pull(ids)

        grid.pull_messages = slowly  # type: ignore[method-assign, assignment]
        work = NonBlocking(batch_size=16, minibatch_size=4, trigger="deadline", deadline=1e-6)
        run = tiny.run(RING, 2, on=grid, work=work, grace_seconds=0.01, start={"timeout": 30, **NO_EVALUATION})
        assert run.column("present")[0] == [0, 1, 2, 3]

    def test_all_workers_is_busy_with_an_earlier_round(self) -> None:
        """Three are silent in round 1, the fourth in round 2: round 3 has nobody to ask, and waits for somebody."""
        grid = late(lambda rank, number, kind: kind == "train" and (number == 1) == (rank > 0) and number < 3)
        pull = grid.pull_messages
        waits = {"count": 0}

        def pulling(ids: Any) -> Any:
            ids = list(ids)
            waits["count"] += len(ids) == 4
            if waits["count"] > 8:
                grid.release()
            return pull(ids)

        grid.pull_messages = pulling  # type: ignore[method-assign, assignment]
        run = tiny.run(RING, 4, on=grid, work=WORK, grace_seconds=0.0, start={"timeout": 0.2, **NO_EVALUATION})
        assert run.column("present")[0] == [0]
        assert run.column("present")[-1] == [0, 1, 2, 3]

    def test_no_worker_ever_answers(self) -> None:
        grid = late(lambda rank, number, kind: kind == "train")
        with pytest.raises(AllWorkersFailedError, match=r"round 1: .* \(no worker replied in time\)"):
            tiny.run(RING, 2, on=grid, work=WORK, start=SHORT)


class TestNodes:
    def test_a_node_comes_back_under_a_new_id(self) -> None:
        grid = late(lambda *message: False)

        def leave_and_return(record: Any, state: Any) -> None:
            if record["round"] == 1:
                grid.take_away(2)
            if record["round"] == 3:
                grid.bring_back(2, node_id=5)

        run = tiny.run(RING, 6, on=grid, work=WORK, on_round=[leave_and_return], start=SHORT)
        assert run.column("present") == [[0, 1, 2, 3], *[[0, 1, 3]] * 3, *[[0, 1, 2, 3]] * 2]
        assert run.strategy.roster.node_ids[2] == 5
        assert run.column("rejected") == [0] * 6

    def test_a_node_that_died_at_work_comes_back_under_a_new_id(self) -> None:
        """Its old message is never answered; nobody waits for it any more, and its old row is forgotten."""
        grid = late(second_round_of_one)

        def leave_and_return(record: Any, state: Any) -> None:
            if record["round"] == 2:
                grid.take_away(1)
                grid.bring_back(1, node_id=5)

        run = tiny.run(RING, 5, on=grid, work=WORK, fold_late=True, on_round=[leave_and_return], start=SHORT)
        assert run.column("present") == [[0, 1, 2, 3], [0, 2, 3], [0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
        assert run.strategy.session.exchange.busy_nodes == set()

    def test_strangers_are_ignored(self) -> None:
        """A newcomer without a rank, or with one that this run does not have."""
        grid = late(lambda *message: False)

        def join(record: Any, state: Any) -> None:
            if record["round"] == 1:
                grid.connect(6)
                grid.connect(7, **{"partition-id": 9, "num-partitions": 10})

        known = tiny.run(RING, 3, on=late(lambda *message: False), work=WORK, start=SHORT)
        run = tiny.run(RING, 3, on=grid, work=WORK, on_round=[join], start=SHORT)
        assert run.column("present") == [[0, 1, 2, 3]] * 3
        assert sorted(run.strategy.roster.node_ids) == sorted(known.strategy.roster.node_ids)
        assert run.rows.tobytes() == known.rows.tobytes()

    def test_silent_in_the_handshake(self) -> None:
        """Two nodes answer the handshake late: they get the ranks that are left, and their own once they answer."""
        grid = late(lambda rank, number, kind: kind.startswith("query") and rank in (0, 3))
        options: dict[str, Any] = {"roster_timeout": 0.05, "num_workers": 4, "on_round": releasing(grid, 1)}
        run = tiny.run(RING, 3, on=grid, work=WORK, start=SHORT, **options)
        assert run.column("present") == [[1, 2], [0, 1, 2, 3], [0, 1, 2, 3]]
        assert [grid.ranks[node] for node in run.strategy.roster.node_ids] == [0, 1, 2, 3]


class TestWindow:
    @pytest.mark.parametrize("window", [1, 2, 3, 10])
    def test_messages_in_flight(self, window: int) -> None:
        grid = LateGrid(tiny.app(devices=tiny.fleet(1)), 6, lambda *message: False)
        whole = tiny.run(AllReduce, 2, 6, work=WORK)
        run = tiny.run(AllReduce, 2, 6, on=grid, work=WORK, window=window, start=NO_EVALUATION)
        trained = [entry for entry in grid.asked if entry[0] == "train"]
        assert len(trained) == 12
        assert run.rows.tobytes() == whole.rows.tobytes()

    def test_it_is_respected(self) -> None:
        """Nothing is answered until two polls later: no more than the window may be waiting."""
        grid = LateGrid(tiny.app(devices=tiny.fleet(1)), 6, lambda rank, number, kind: kind == "train")
        pull, waiting = grid.pull_messages, []

        def pulling(ids: Any) -> Any:
            ids = list(ids)
            waiting.append(len(ids))
            if len(waiting) % 2:
                grid.release()
            return pull(ids)

        grid.pull_messages = pulling  # type: ignore[method-assign, assignment]
        tiny.run(
            AllReduce,
            2,
            6,
            on=grid,
            work=WORK,
            window=2,
            partition=Partition(),
            start={"evaluate_fn": SHORT["evaluate_fn"]},
        )
        assert max(waiting[1:]) == 2
