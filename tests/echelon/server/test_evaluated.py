"""Whose models are evaluated: all, as many as are cheap, the extremes, or none; and where that is said."""

import logging
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from hypothesis import given
from hypothesis import strategies as st

from echelon.core.work import FullBatch
from echelon.server.evaluated import EvaluatedWorkers
from echelon.server.state import ServerState
from strategies import DPSGD, AllReduce
from tests import tiny

WORKERS, ROUNDS, SAMPLES = 6, 4, 32


def state(samples_per_round: int = 0, server_round: int = 2, workers: int = WORKERS) -> ServerState:
    made = ServerState.initial(np.zeros(3, np.float32), workers, 0)
    made.round, made.samples = server_round, samples_per_round * server_round
    return made


def chosen(choice: Any, **options: int) -> EvaluatedWorkers:
    return EvaluatedWorkers(choice, **{"samples": SAMPLES, "eval_every": 2, "num_rounds": ROUNDS} | options)


class TestRanks:
    def test_all_and_none(self) -> None:
        assert chosen("all").ranks(state()) == list(range(WORKERS))
        assert chosen("none").ranks(state(1000, ROUNDS)) == []

    @pytest.mark.parametrize(("per_round", "count"), [(0, 0), (31, 0), (32, 1), (64, 3), (111, 5), (112, 6), (9999, 6)])
    def test_a_sample_and_the_consensus_model_take_as_many_samples_as_training(
        self, per_round: int, count: int
    ) -> None:
        ranks = chosen("sample").ranks(state(per_round))
        assert len(ranks) == count
        assert ranks == sorted(set(ranks))

    @given(st.integers(1, 50), st.integers(0, 5000), st.integers(1, 500), st.integers(1, 20))
    def test_it_costs_at_most_a_third_of_the_training(
        self, workers: int, per_round: int, samples: int, every: int
    ) -> None:
        made = chosen("sample", samples=samples, eval_every=every, num_rounds=99)
        ranks = made.ranks(state(per_round, workers=workers))
        forward, training = (len(ranks) + 1) * samples, 3 * per_round * every
        assert not ranks or forward <= training / 3
        assert len(ranks) == workers or forward + samples > training / 3

    def test_a_sample_depends_on_seed_and_round_alone(self) -> None:
        first = chosen("sample").ranks(state(64))
        assert chosen("sample").ranks(state(64)) == first
        others = [chosen("sample", seed=seed).ranks(state(64)) for seed in range(1, 6)]
        assert any(ranks != first for ranks in others)
        assert {rank for ranks in others for rank in ranks} == set(range(WORKERS))

    def test_the_last_round_evaluates_all(self) -> None:
        assert chosen("sample").ranks(state(0, ROUNDS)) == list(range(WORKERS))

    def test_best_and_worst(self) -> None:
        made = state()
        assert chosen("best_worst").ranks(made) == []
        made.losses[:] = [np.nan, 0.5, 0.7, 0.2, 0.9, np.inf]
        assert chosen("best_worst").ranks(made) == [3, 4]
        made.losses[:] = [np.nan] * 5 + [0.5]
        assert chosen("best_worst").ranks(made) == [5]


class TestInARun:
    def run(self, choice: Any, make: Any = None) -> tuple[tiny.Run, list[int]]:
        """A run, and how many models were evaluated in each round from 0."""
        calls = [0] * (ROUNDS + 1)

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            calls[server_round] += 1
            return MetricRecord({"accuracy": float(np.mean(arrays["weight"].numpy())), "loss": 1.0})

        options: dict[str, Any] = {
            "work": FullBatch(1, 8, 8),
            "eval_every": 2,
            "evaluate_workers": chosen(choice),
            "start": {"evaluate_fn": evaluate},
        }
        made = make or (lambda **options: DPSGD("ring", **options))
        return tiny.run(made, ROUNDS, WORKERS, **options), calls

    @pytest.mark.parametrize(
        ("choice", "calls"),
        [
            ("all", [1, 0, 7, 0, 7]),
            ("sample", [1, 0, 3, 0, 7]),
            ("best_worst", [1, 0, 3, 0, 3]),
            ("none", [1, 0, 1, 0, 1]),
        ],
    )
    def test_models_that_are_left_out_are_null(
        self, choice: str, calls: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            run, counted = self.run(choice)
        assert counted == calls
        for record, count in zip(run.records, calls[1:], strict=True):
            assert ("consensus_accuracy" in record) == (count > 0)
            values = record.get("worker_accuracy", [])
            assert sum(value is not None for value in values) == max(count - 1, 0)
            assert len(values) == (WORKERS if count > 1 else 0)
        said = "Round 2: the models of 2 of 6 workers are evaluated (evaluate_workers=sample; all with =all)"
        assert (said in caplog.text) == (choice == "sample")

    def test_one_evaluation_serves_equal_models(self) -> None:
        run, counted = self.run("sample", AllReduce)
        assert counted == [1, 0, 1, 0, 1]
        assert None not in run.records[-1]["worker_accuracy"]
        run, _ = self.run("none", AllReduce)
        assert "worker_accuracy" not in run.records[-1]

    def test_what_is_evaluated_does_not_change_the_run(self) -> None:
        runs = [self.run(choice)[0] for choice in ("all", "sample", "none")]
        assert len({run.rows.tobytes() for run in runs}) == 1
