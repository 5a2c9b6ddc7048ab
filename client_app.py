"""The Flower ClientApp, composed from the configuration; used by ``run_sim.py`` and by ``flwr run`` alike.

Nothing heavy at module level: in a deployment every message starts a fresh process, that hands it to the trainer
process of its SuperNode (see ``echelon.persistent.client``); only that one, and a simulation, composes the
configuration.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flwr.app import Context, RecordDict

from clients import WorkerApp, make_client_app, rank_of

if TYPE_CHECKING:
    from torch import nn

    from conf import Config


def _answer(message_type: str, content: RecordDict, context: Context) -> RecordDict:
    from conf import of_run_config

    return _composed_from(tuple(of_run_config(context.run_config))).answer(message_type, content, context)


app = WorkerApp(_answer, persistent="client_app:app")


def make_app(config: "Config", is_over: Callable[[], bool] = lambda: False) -> WorkerApp:
    """Return the ClientApp of a configuration; ``is_over`` as for :func:`clients.make_client_app`."""
    from app.batching import batched
    from app.fleet import make_fleet

    return make_client_app(
        lambda context: load_data(config, context),
        lambda: build_model(config),
        device=config.device,
        fleet=make_fleet(config),
        precision=config.precision,
        optimizer=config.optimizer.name,
        optimizer_state=config.optimizer.state,
        max_grad_norm=config.optimizer.max_grad_norm,
        is_over=is_over,
        batched=batched(config),
    )


def load_data(config: "Config", context: Context) -> Any:
    """Return what a worker can reach: the pooled data, or with ``partitioner=local`` its own.

    It lies where the node's configuration says (``data``, with ``{rank}`` filled in), or at ``task.root``.
    """
    from app.task import TaskData, load_task

    root = str(context.node_config.get("data", config.task.root or "")).replace("{rank}", str(rank_of(context))) or None
    return TaskData(load_task(config, root))


def build_model(config: "Config") -> "nn.Module":
    """Return a configuration's model."""
    from app import task

    return task.build_model(config)


@lru_cache(maxsize=1)
def _composed_from(overrides: tuple[str, ...]) -> WorkerApp:
    from conf import compose

    return make_app(compose(overrides))
