"""What one worker's report about itself cannot do: push its update past the limit, or set the budget of all workers."""

from typing import Any

import numpy as np

from echelon.protocol.messages import TrainInstructions
from echelon.server.instructions import RoundInstructions
from echelon.server.state import ServerState
from strategies import AllReduce, FullBatch, NonBlocking, NormLimit, Partition
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
    assert RoundInstructions.make(1, work, state, Partition()).budget_seconds == 0.02
    assert RoundInstructions.make(1, work, state, Partition(), [1, 2, 3]).budget_seconds == 2.0
    assert RoundInstructions.make(1, work, state, Partition(), [3]).budget_seconds == 4.0
