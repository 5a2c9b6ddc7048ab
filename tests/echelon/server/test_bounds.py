"""What one worker's report about itself cannot do: push its update past the limit, or set the budget of all workers."""

from typing import Any

import numpy as np

from echelon.protocol.messages import TrainInstructions
from echelon.server.instructions import RoundInstructions
from echelon.server.state import ServerState
from strategies import AllReduce, AutoNormLimit, FullBatch, NonBlocking, NormLimit, Partition
from tests.strategies import scripted


def moved(norm_limit: NormLimit | None, liar: bool) -> float:
    """How far the common model moves in a round from 0, workers drawn to 1 but the last one to 100."""

    def share(rank: int, instructions: TrainInstructions) -> float:
        return 1 / 16 if liar and rank == 3 else 1.0

    options: dict[str, Any] = {
        "work": FullBatch(local_steps=2, batch_size=8, minibatch_size=4),
        "partition": Partition(),
    }
    strategy = AllReduce(norm_limit=norm_limit, eval_every=99, **options)
    script = scripted.Script((1.0, 1.0, 1.0, 100.0), share=share)
    strategy.start(scripted.grid(script), scripted.model(), 1, evaluate_fn=lambda number, arrays: None)
    return float(strategy.state.rows[0, 0])


def test_few_samples_reported_do_not_carry_an_update_beyond_the_limit() -> None:
    assert moved(None, liar=True) > 100, "weighed up, as those who took few steps are"
    honest, lied = moved(NormLimit(2.0), liar=False), moved(NormLimit(2.0), liar=True)
    assert honest == (3 * 0.5 + 2.0) / 4
    assert lied <= (3 * 2.0 + 2.0) / 4


def test_the_budget_is_that_of_the_workers_asked() -> None:
    state = ServerState.initial(np.zeros(1, np.float32), 4, 0)
    state.seconds_per_minibatch = np.array([0.01, 1.0, 1.0, 2.0])
    work = NonBlocking(batch_size=8, minibatch_size=4)
    assert RoundInstructions.make(1, work, state).budget_seconds == 0.02
    assert RoundInstructions.make(1, work, state, None, [1, 2, 3]).budget_seconds == 2.0
    assert RoundInstructions.make(1, work, state, None, [3]).budget_seconds == 4.0


def test_the_fastest_do_not_decide_the_budget_of_a_robust_run() -> None:
    state = ServerState.initial(np.zeros(1, np.float32), 4, 0)
    state.seconds_per_minibatch = np.array([0.01, 1.0, 1.5, np.nan])
    work = NonBlocking(batch_size=8, minibatch_size=4)
    assert RoundInstructions.make(1, work, state, spare=1).budget_seconds == 2.0
    assert RoundInstructions.make(1, work, state, spare=3).budget_seconds == 3.0


class TestLimitFromTheMedian:
    """Norms of the honest updates: 0.5, 0.5, 1; worker 3 would move by 50."""

    @staticmethod
    def run(action: Any = "clip", rounds: int = 1) -> tuple[np.ndarray[Any, Any], list[dict[str, Any]]]:
        records: list[dict[str, Any]] = []
        strategy = AllReduce(
            norm_limit=AutoNormLimit(action=action),
            eval_every=99,
            work=FullBatch(batch_size=8, minibatch_size=4),
            partition=Partition(),
            on_round=[lambda record, state: records.append(record)],
        )
        script = scripted.Script((1.0, 1.0, 2.0, 100.0))
        strategy.start(scripted.grid(script), scripted.model(), rounds, evaluate_fn=lambda number, arrays: None)
        return strategy.state.extras["update_norms"].astype(float), records

    def test_bounds_the_first_round_too_and_remembers_the_accepted_norms(self) -> None:
        norms, _ = self.run()
        assert norms.tolist() == [0.5, 0.5, 1.0, 1.5]  # twice the median of 0.5, 0.5, 1, 50

    def test_may_refuse(self) -> None:
        _, records = self.run("reject")
        assert records[0]["present"] == [0, 1, 2]
        assert "above max_update_norm=1.5" in records[0]["rejections"]["3"]

    def test_does_not_grow_with_the_liar(self) -> None:
        norms, _ = self.run(rounds=8)
        assert norms[3] <= 2 * np.median(norms) + 1e-6
