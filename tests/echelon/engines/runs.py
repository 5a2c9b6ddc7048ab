"""Small runs without a server, whose results are compared with those of one process."""

from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from clients.fleet import Fleet, Jitter
from echelon.engines import torch as engine
from echelon.engines.peers import Parts
from echelon.server.evaluated import EvaluatedWorkers
from strategies import SGD
from tests import tiny
from tests.strategies.table import STRATEGIES, WORK

WORKERS, ROUNDS, EVERY = 4, 20, 7
OWNERS = engine.owners(WORKERS, 3)
WITHOUT_SERVER = [name for name, make in STRATEGIES.items() if not make().needs_server]


def devices(work: str) -> Fleet:
    """Unequal devices; of those under a budget, some leave and come back."""
    churn = {} if work == "full_batch" else {"leave_probability": 0.1, "return_probability": 0.6}
    return tiny.fleet(1, 1, 0.5, 0.25, jitter=Jitter("shifted_exponential", 0.3), **churn)


def model(name: str, work: str) -> tiny.Model:
    """Buffers of floats and of integers in some rows; not where a batch may be one sample, which has no variance."""
    return tiny.batch_norm if name in ("d_psgd", "all_reduce", "matcha") and work != "rest" else tiny.linear


def options(work: str) -> dict[str, Any]:
    return {"work": WORK[work], "sgd": SGD(0.1, momentum=0.5, weight_decay=0.01), "seed": 3}


def measure(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    values = tiny.vector(arrays)
    return MetricRecord({"accuracy": float(np.tanh(values.std())), "loss": float(np.abs(values).mean())})


def evaluated() -> EvaluatedWorkers:
    return EvaluatedWorkers("sample", samples=30, eval_every=EVERY, num_rounds=ROUNDS)


def parts(name: str, work: str) -> Parts:
    app = tiny.app(model(name, work), devices=devices(work))
    assert hasattr(app, "answer")
    return Parts(
        STRATEGIES[name](**options(work)),
        lambda is_over: app.answer,
        tiny.arrays(model(name, work)),
        tiny.partition(WORKERS),
        measure,
        evaluated(),
    )
