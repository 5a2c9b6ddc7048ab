"""Effect of one liar among eight workers: ``python -m benchmarks.experiments.liars``.

AL-DSGD, D-PSGD and all-reduce against seven kinds of lies, with ``strategy.robust`` off and on, with IID and with
Dirichlet(0.3) shards. Graph ``exponential``: every worker has five neighbours, and the graph without the liar is
connected. scikit-learn's digits, eight equal workers, non-blocking work. Reports the mean accuracy of the honest
workers' models on the test samples. Finished runs are kept in a file and not repeated.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

import client_app
from app.evaluation import Evaluation
from app.fleet import make_fleet
from app.partition import build_partitioner, held_out, to_partition
from app.strategy import build as build_strategy
from app.task import TaskData, build_model, load_task
from benchmarks.experiments.runner import print_table, spread
from clients import make_client_app
from conf import Config, compose
from echelon.algorithms.seeds import rng
from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import ARRAYS, METRICS, MOMENTUM
from strategies import AllWorkersFailedError, Options, Partition

LIAR = 3
COMMON = [
    *("task=digits", "model=mlp", "engine=inline", "fleet=uniform", "work=non_blocking", "topology=exponential"),
    *("rounds=60", "eval_every=1000000", "batch_size=32", "minibatch_size=16", "learning_rate=0.1", "momentum=0.9"),
]
SHARDS = {"iid": ["partitioner=stratified"], "dirichlet": ["partitioner=dirichlet", "partitioner.alpha=0.3"]}
STRATEGIES = {
    "al_dsgd": ["strategy=al_dsgd", "strategy.signal=train_loss"],
    "d_psgd": ["strategy=d_psgd"],
    "all_reduce": ["strategy=all_reduce"],
}
RESULTS = Path(__file__).parents[1] / "results" / "liars.jsonl"

# A lie changes a reply, given what the worker was sent and a generator of noise.
Lie = Callable[[RecordDict, RecordDict, np.random.Generator], None]


class Run(NamedTuple):
    """One run of the experiment."""

    shards: str
    lie: str
    strategy: str
    robust: bool
    seed: int


def _on_arrays(
    change: Callable[[Any, Any, np.random.Generator], Any],
) -> Lie:
    """Return the lie that replaces every array of the reply by ``change(sent, new, generator)``."""

    def lie(reply: RecordDict, sent: RecordDict, generator: np.random.Generator) -> None:
        for key in (ARRAYS, MOMENTUM):
            if key in reply:
                record, before = reply.array_records[key], sent.array_records[key]
                for name in list(record):
                    old, new = before[name].numpy(), record[name].numpy()
                    record[name] = Array(np.asarray(change(old, new, generator), dtype=new.dtype))

    return lie


def _report(name: str, value: float) -> Lie:
    def lie(reply: RecordDict, sent: RecordDict, generator: np.random.Generator) -> None:
        reply.metric_records[METRICS][name] = value

    return lie


def _both(first: Lie, second: Lie) -> Lie:
    def lie(reply: RecordDict, sent: RecordDict, generator: np.random.Generator) -> None:
        first(reply, sent, generator)
        second(reply, sent, generator)

    return lie


def _nothing(reply: RecordDict, sent: RecordDict, generator: np.random.Generator) -> None:
    pass


_ZEROS = _on_arrays(lambda old, new, generator: np.zeros_like(new))
_FALSE_LOSS = _report("train_loss", 0.0)
LIES: dict[str, Lie] = {
    "honest": _nothing,
    "zeros": _ZEROS,
    "noise": _on_arrays(lambda old, new, generator: new + 0.5 * generator.normal(size=new.shape)),
    "reversed": _on_arrays(lambda old, new, generator: old - 3 * (new - old)),
    "false loss": _FALSE_LOSS,
    "false speed": _report("seconds", 1e-9),
    "label flip": _nothing,  # it trains as told, on wrong labels
    "false loss, zeros": _both(_FALSE_LOSS, _ZEROS),
}


class _Flipped(TaskData):
    """Training samples with every label c replaced by (number of classes - 1 - c)."""

    def __init__(self, config: Config) -> None:
        task = load_task(config, config.task.root)
        super().__init__(task)
        self._last = int(task.train.y.max())

    def batch(self, indices: torch.Tensor, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().batch(indices, generator)
        return x, self._last - y


class LyingApp(ClientApp):
    """The configuration's ClientApp, except that worker ``LIAR`` lies in its train replies."""

    def __init__(self, config: Config, lie: str) -> None:
        super().__init__()
        self._honest = client_app.make_app(config)
        self._liar = self._honest
        if lie == "label flip":
            fleet = make_fleet(config)
            self._liar = make_client_app(
                lambda context: _Flipped(config), lambda: build_model(config), device="cpu", fleet=fleet
            )
        self._lie, self._seed, self._asked = LIES[lie], config.seed, 0

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        if context.node_config["partition-id"] != LIAR or message.metadata.message_type != MessageType.TRAIN:
            return self._honest(message, context)
        self._asked += 1
        sent = message.content
        reply = self._liar(message, context)
        self._lie(reply.content, sent, np.random.default_rng([self._seed, self._asked]))
        return reply


def honest_accuracy(run: Run, overrides: Sequence[str] = ()) -> float:
    """Do a run; return the mean test accuracy of the honest workers' final models."""
    config = compose(
        [
            *COMMON,
            *SHARDS[run.shards],
            *STRATEGIES[run.strategy],
            f"strategy.robust={str(run.robust).lower()}",
            f"seed={run.seed}",
            *overrides,
        ]
    )
    task, model = load_task(config, None), build_model(config)
    pool = to_partition(config, len(task.train))
    partitioner = build_partitioner(config, task, pool)
    parts = partitioner(task.train.y.numpy()[pool], [1.0] * config.workers, rng(config.seed, "partition"))
    split = task.train.subset(torch.from_numpy(held_out(config, len(task.train))))
    evaluation = Evaluation(config, model, task.test, split)
    options = Options(partition=Partition([pool[part] for part in parts]), held_out_loss=evaluation.held_out_loss)
    strategy = build_strategy(config, options)
    grid = InlineGrid(LyingApp(config, run.lie), config.workers)
    # Once all models have diverged, every reply is refused; the models are evaluated as they are.
    with suppress(AllWorkersFailedError):
        strategy.start(grid, ArrayRecord(model.state_dict()), config.rounds, evaluate_fn=lambda number, arrays: None)
    state, layout = strategy.state, strategy.session.layout
    honest = [layout.arrays(state.rows[rank], state.exact[rank]) for rank in range(config.workers) if rank != LIAR]
    return float(np.mean([evaluation(0, arrays)["accuracy"] for arrays in honest]))


def results(path: Path) -> dict[Run, float]:
    """Return the accuracies in a file of finished runs."""
    if not path.exists():
        return {}
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return {Run(*(line[name] for name in Run._fields)): line["accuracy"] for line in lines}


def _missing(path: Path, seeds: int, kinds: Sequence[str]) -> list[Run]:
    """Return the runs to do, seed by seed."""
    every = product(range(seeds), kinds, (True, False), STRATEGIES, LIES)
    done = results(path)
    runs = [Run(shards, lie, strategy, robust, seed) for seed, shards, robust, strategy, lie in every]
    return [run for run in runs if run not in done]


def _work(runs: Sequence[Run], overrides: Sequence[str], jobs: int) -> Iterator[tuple[Run, float]]:
    if jobs == 1:
        yield from ((run, honest_accuracy(run, overrides)) for run in runs)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from zip(runs, pool.map(honest_accuracy, runs, [overrides] * len(runs)), strict=True)


def main() -> None:
    """Do the runs that are missing and print a table per kind of shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=RESULTS, type=Path, help="file of finished runs, one JSON object per line")
    parser.add_argument("--seeds", default=3, type=int, help="number of seeds")
    parser.add_argument("--shards", nargs="*", default=list(SHARDS), choices=list(SHARDS), help="kinds of shards")
    parser.add_argument("--jobs", default=1, type=int, help="parallel runs, one process each")
    parser.add_argument("overrides", nargs="*", help="overrides for every run; give another --out with them")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    runs = _missing(options.out, options.seeds, options.shards)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for number, (run, accuracy) in enumerate(_work(runs, options.overrides, options.jobs), start=1):
        with options.out.open("a") as file:
            file.write(json.dumps({**run._asdict(), "accuracy": accuracy}) + "\n")
        print(f"{number}/{len(runs)} {run} {accuracy:.4f}", file=sys.stderr, flush=True)
    found = results(options.out)
    for shards in options.shards:
        print(f"\n### {shards} shards\n")
        print_table(("strategy", "robust", *LIES), list(rows(found, shards, options.seeds)))


def rows(found: dict[Run, float], shards: str, seeds: int) -> Iterator[list[str]]:
    for strategy, robust in product(STRATEGIES, (False, True)):
        cells = [[found[Run(shards, lie, strategy, robust, seed)] for seed in range(seeds)] for lie in LIES]
        yield [strategy, "yes" if robust else "no", *(spread(cell, 1, 100) for cell in cells)]


if __name__ == "__main__":
    main()
