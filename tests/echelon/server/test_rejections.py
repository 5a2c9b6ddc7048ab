"""Replies that must not enter the model: every strategy rejects and counts them, and the run continues."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import ARRAYS, METRICS, NUM_EXAMPLES, ROSTER_QUERY
from strategies import AllWorkersFailedError, Partition
from tests import tiny
from tests.strategies.table import STRATEGIES, Factory
from tests.strategies.test_contract import each_strategy


def spoiled(how: Callable[[RecordDict], None], ranks: Iterable[int], times: int = 1) -> ClientApp:
    """An app whose workers ``ranks`` spoil their second reply (with ``times``, so many from there on)."""
    good, app = tiny.app(devices=tiny.fleet(1, 1, 1, 1), mods=[tiny.as_it_is]), ClientApp()
    count: dict[int, int] = {}
    app.query(ROSTER_QUERY)(good)
    app.evaluate()(good)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        rank = int(context.node_config["partition-id"])
        count[rank] = count.get(rank, 0) + 1
        reply = good(message, context)
        if rank in ranks and 2 <= count[rank] < 2 + times:
            how(reply.content)
        return reply

    return app


def put(name: str, values: Any) -> Callable[[RecordDict], None]:
    return lambda content: content.array_records[ARRAYS].__setitem__(name, Array(np.asarray(values)))


def report(name: str, value: Any) -> Callable[[RecordDict], None]:
    return lambda content: content.metric_records[METRICS].__setitem__(name, value)


def drop(record: str, name: str | None = None) -> Callable[[RecordDict], None]:
    def how(content: RecordDict) -> None:
        if name is None:
            del content[record]
        else:
            del content[record][name]

    return how


def fail(content: RecordDict) -> None:
    raise ZeroDivisionError("all of a sudden")


def garble(content: RecordDict) -> None:
    array = content.array_records[ARRAYS]["bias"]
    content.array_records[ARRAYS]["bias"] = Array(array.dtype, array.shape, array.stype, array.data[:-3])


BIAS = np.zeros(3, dtype=np.float32)
FAULTS: dict[str, tuple[Callable[[RecordDict], None], str]] = {
    "NaN": (put("bias", BIAS * np.nan), "array bias holds values that are not finite"),
    "infinity": (put("bias", BIAS + np.float32("inf")), "array bias holds values that are not finite"),
    "shape": (put("bias", BIAS[:2]), "array bias must be float32 (3,); got float32 (2,)"),
    "dtype": (put("bias", BIAS.astype(np.float64)), "array bias must be float32 (3,); got float64 (3,)"),
    "one more array": (put("more", BIAS), "array more is unknown"),
    "one array less": (drop(ARRAYS, "bias"), "array bias is missing"),
    "bytes": (garble, "an array of shape (3,) and dtype float32 must have 12 bytes"),
    "no arrays": (drop(ARRAYS), "its reply lacks 'arrays'"),
    "no metrics": (drop(METRICS), "its reply lacks 'metrics'"),
    "no num-examples": (drop(METRICS, NUM_EXAMPLES), "its reply lacks 'num-examples'"),
    "too many samples": (report("samples", 17), "samples must lie in [0, 16]; got 17"),
    "negative samples": (report("samples", -1), "samples must lie in [0, 16]; got -1"),
    "half a sample": (report("samples", 0.5), "samples must be an integer; got 0.5"),
    "negative minibatches": (report("minibatches", -1), "minibatches must be at least 0; got -1"),
    "other num-examples": (report(NUM_EXAMPLES, 10**9), "num-examples must be 24, its shard; got 1000000000"),
    "list": (report("samples", [1, 2]), "metric samples must be one number; got a list of 2"),
    "NaN seconds": (report("seconds", float("nan")), "seconds must lie in [0, 1e+09]; got nan"),
    "negative seconds": (report("seconds", -1.0), "seconds must lie in [0, 1e+09]; got -1.0"),
    "infinite loss": (report("train_loss", float("inf")), "train_loss must be finite; got inf"),
    "exception": (fail, "error 2: ZeroDivisionError: all of a sudden"),
}


class TestRejections:
    @staticmethod
    def check(make: Factory, fault: str) -> None:
        how, reason = FAULTS[fault]
        run = tiny.run(make, 5, on=InlineGrid(spoiled(how, [2]), 4))
        rejected = [record for record in run.records if record["rejected"]]
        assert [record["rejected"] for record in rejected] == [1]
        assert rejected[0]["rejections"] == {"2": reason}
        assert np.isfinite(run.rows).all()
        assert run.strategy.state.round == 5
        assert any(2 in record["present"] for record in run.records[rejected[0]["round"] :])

    @pytest.mark.parametrize("fault", sorted(FAULTS))
    def test_any_fault(self, fault: str) -> None:
        self.check(STRATEGIES["d_psgd"], fault)

    @each_strategy
    @pytest.mark.parametrize("fault", ["NaN", "exception"])
    def test_in_any_strategy(self, make: Factory, fault: str) -> None:
        self.check(make, fault)

    @pytest.mark.parametrize("value", [0, -5, float("nan"), float("inf"), 0.5])
    def test_num_examples_without_a_plan(self, value: float) -> None:
        """They are weights there: one lie must not carry away the average."""
        grid = InlineGrid(spoiled(report(NUM_EXAMPLES, value), [2]), 4)
        run = tiny.run(STRATEGIES["all_reduce"], 3, on=grid, partition=Partition())
        assert run.column("rejected") == [0, 1, 0]
        assert np.isfinite(run.rows).all()

    @each_strategy
    def test_all_workers_failing_ends_the_run(self, make: Factory) -> None:
        with pytest.raises(AllWorkersFailedError) as error:
            tiny.run(make, 3, on=InlineGrid(spoiled(fail, range(4), times=99), 4))
        for rank in range(4):
            assert f"worker {rank}: error 2: ZeroDivisionError: all of a sudden" in str(error.value)

    @each_strategy
    def test_a_worker_that_always_fails_is_left_out(self, make: Factory) -> None:
        good, app = tiny.app(devices=tiny.fleet(1)), ClientApp()
        app.query(ROSTER_QUERY)(good)
        app.evaluate()(good)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            if context.node_config["partition-id"] == 0:
                raise OSError("no memory")
            return good(message, context)

        run = tiny.run(make, 4, on=InlineGrid(app, 4))
        assert all(0 not in record["present"] for record in run.records)
        assert all(record["present"] for record in run.records)
        assert sum(record["rejected"] for record in run.records) >= 2
