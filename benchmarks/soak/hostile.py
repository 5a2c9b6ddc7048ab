"""Hostile replies: in every round, one worker sends something else than it should."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MessageType
from flwr.clientapp import ClientApp

import client_app
import server_app
from benchmarks.soak.promises import every_round_once
from benchmarks.soak.target import Target
from conf import Config, compose
from echelon.engines.inline import InlineGrid
from echelon.protocol.messages import ARRAYS, CONFIG, METRICS, TrainInstructions
from echelon.reports import progress
from echelon.server import checkpoint

_ROUNDS = 6
_WORKERS = 5
_RUN = [
    *("engine=inline", "progress=none", f"rounds={_ROUNDS}", f"workers={_WORKERS}", "topology=ring", "partitioner=iid"),
    *("eval_every=100", "task.train_limit=300", "task.test_limit=50", "checkpoint_every=1"),
]
_STRATEGIES = ("al_dsgd", "d_psgd", "matcha", "all_reduce")


def _arrays(change: Callable[[Any], Any]) -> Callable[[Message], None]:
    def fault(reply: Message) -> None:
        arrays = reply.content.array_records[ARRAYS]
        reply.content[ARRAYS] = ArrayRecord({name: Array(change(array.numpy())) for name, array in arrays.items()})

    return fault


def _report(name: str, value: Any) -> Callable[[Message], None]:
    def fault(reply: Message) -> None:
        reply.content.metric_records[METRICS][name] = value

    return fault


def _names(reply: Message) -> None:
    arrays = reply.content.array_records[ARRAYS]
    for number in range(5000):
        arrays[f"forged.{number}"] = Array(np.zeros(1, dtype=np.float32))


def _nothing(reply: Message) -> None:
    for name in list(reply.content):
        del reply.content[name]


def _raises(reply: Message) -> None:
    raise RuntimeError("the worker's own error\x1b[31m [bold]with markup")


FAULTS: dict[str, Callable[[Message], None]] = {
    "NaN": _arrays(lambda values: np.full_like(values, np.nan)),
    "infinity": _arrays(lambda values: np.full_like(values, np.inf)),
    "wrong shape": _arrays(lambda values: values.reshape(-1)[:1].copy()),
    "wrong type": _arrays(lambda values: values.astype(np.complex64)),
    "forged names": _names,
    "empty reply": _nothing,
    "exception": _raises,
    "impossible count": _report("samples", 10**15),
    "negative count": _report("samples", -1),
    "negative loss": _report("train_loss", -1.0),
    "negative seconds": _report("seconds", -1.0),
    "NaN in the report": _report("train_loss", float("nan")),
}


class _HostileApp(ClientApp):
    """The configuration's ClientApp, except that in every round another worker's reply is changed."""

    def __init__(self, config: Config, fault: Callable[[Message], None], chance: Random) -> None:
        super().__init__()
        self._honest = client_app.make_app(config)
        self._fault = fault
        self.liars = [chance.randrange(_WORKERS) for _ in range(_ROUNDS)]

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self._honest(message, context)
        if message.metadata.message_type != MessageType.TRAIN:
            return reply
        place = TrainInstructions.from_config(message.content.config_records[CONFIG]).server_round - 1
        if context.node_config["partition-id"] == self.liars[place]:
            self._fault(reply)
        return reply


class Hostile(Target):
    """Runs in this process, whose workers send one kind of hostile reply.

    Parameters
    ----------
    name : str
        Ignored: there is one such target.
    folder : Path
        For the runs.
    """

    faults = tuple(FAULTS)

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def suffer(self, fault: str, chance: Random) -> tuple[float, str]:
        """Do a run; return 0 and what was lost."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        config = compose([*_RUN, f"strategy={chance.choice(_STRATEGIES)}", f"run_dir={run}"])
        app = _HostileApp(config, FAULTS[fault], chance)
        with server_app.open_folder(config, run) as opened:
            server_app.run(config, InlineGrid(app, _WORKERS), opened, progress.make("none"))
        for liar, record in zip(app.liars, opened.metrics, strict=False):
            if record["present"] != [rank for rank in range(_WORKERS) if rank != liar]:
                return 0.0, f"round {record['round']} has workers {record['present']}; {liar} should be left out"
        if not np.isfinite(checkpoint.load(run / "checkpoint").rows).all():
            return 0.0, "a model is not finite"
        return 0.0, every_round_once(run, _ROUNDS)
