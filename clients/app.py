"""The Flower ClientApp: thin handlers around a worker that stays in this process, or in a trainer process.

Nothing here imports torch at module level: in a deployment every message starts a fresh process, and only the one that
holds the worker should pay for it.
"""

import inspect
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from echelon.persistent import client as trainers
from echelon.persistent import processes as warm_process
from echelon.persistent.channel import Request
from echelon.protocol.messages import CONFIG, ROSTER_QUERY, TrainInstructions
from echelon.protocol.packing import PACKED, pack, unpack

if TYPE_CHECKING:
    from torch import nn

    from .fleet import Fleet
    from .training import Loss
    from .worker import Worker

Answer = Callable[[str, RecordDict, Context], RecordDict]

# Simulated nodes hop between processes and Ray unpickles the app for every message: its worker lives here.
_workers: dict[str, "Worker"] = {}


class WorkerApp(ClientApp):
    """A ClientApp whose messages a worker answers: of this process or, on a real device, of a trainer process.

    Parameters
    ----------
    answer : callable
        (message type, content, context) -> content of the reply.
    mods : list of Flower mods, optional
        Wrapped around every train message.
    warm : str, optional
        ``module:variable`` under which this app can be imported. On a real device a trainer process, that imports it,
        then answers all messages of a run; without it every message loads torch, data and model anew.
    """

    def __init__(self, answer: Answer, *, mods: list[Mod] | None = None, warm: str | None = None) -> None:
        super().__init__()
        self.answer = answer
        self._warm = warm
        self.query(ROSTER_QUERY)(self._reply)
        self.train(mods=mods)(self._reply)
        self.evaluate()(self._reply)

    def _reply(self, message: Message, context: Context) -> Message:
        deployed = trainers.available()
        if deployed:
            warm_process.end_with_parent()
        instructions = TrainInstructions.from_config(message.content.config_records.get(CONFIG, ConfigRecord()))
        if self._warm is not None and instructions.warm and deployed:
            stateless = Context(context.run_id, context.node_id, context.node_config, RecordDict(), context.run_config)
            request = Request(message.metadata.message_type, message.content, stateless)
            content = trainers.ask(self._warm, request, instructions.patience_seconds(message.metadata.message_type))
        else:
            content = self.answer(message.metadata.message_type, message.content, context)
        return Message(content, reply_to=message)


def make_client_app(
    load_data: Callable[..., Any],
    build_model: "Callable[[], nn.Module]",
    *,
    device: str = "auto",
    fleet: "Fleet | None" = None,
    loss: "Loss | None" = None,
    mods: list[Mod] | None = None,
    warm: str | None = None,
) -> WorkerApp:
    """Return a ClientApp that trains as the strategies here ask it to; it also serves Flower's own FedAvg.

    Parameters
    ----------
    load_data : callable
        ``load_data(rank, num_workers)``, or ``load_data(context)`` for one parameter, returns what this worker can
        reach: a pair (inputs, labels), a torch dataset, or an object with ``len()`` and ``batch(indices, generator)``.
        Called once per process and rank. The server's plan indexes into it; without a plan all of it is the shard.
    build_model : callable
        Returns the torch module; its ``state_dict`` names the arrays.
    device : {"auto", "cpu", "cuda"}
        Where to compute; ``auto`` takes CUDA where there is one. A node's own ``device`` in its node-config decides.
    fleet : Fleet, optional
        Simulated devices of unequal speed. Without it the wall clock measures this one.
    loss : callable, optional
        (outputs, labels) -> loss summed over the mini-batch; cross-entropy by default.
    mods : list of Flower mods, optional
        Wrapped around every train message, as by ``@app.train(mods=...)``; see ``docs/security.md`` for those that go
        with the strategies here.
    warm : str, optional
        ``module:variable`` that this app is bound to, as in ``app = make_client_app(..., warm="client_app:app")``:
        on a real device a trainer process, that imports it, then keeps torch, data and model between messages.

    Returns
    -------
    WorkerApp

    Raises
    ------
    ValueError
        For a mod of secure aggregation.
    """
    for mod in mods or []:
        if ".secure_aggregation." in f"{getattr(mod, '__module__', '')}.":
            raise ValueError(
                f"mods must leave a worker's model readable, for the server keeps one per worker; got "
                f"{getattr(mod, '__name__', mod)}, which shows the server nothing but sums"
            )
    options = {"device": device, "fleet": fleet} | ({} if loss is None else {"loss": loss})
    find = partial(_worker, uuid.uuid4().hex, load_data, build_model, options)
    # A mod sees the model as Flower's own clients have it, array by array.
    return WorkerApp(partial(_answer, find, packs=not mods), mods=mods, warm=warm)


def _answer(
    find: "Callable[[Context], Worker]", message_type: str, content: RecordDict, context: Context, *, packs: bool
) -> RecordDict:
    worker, rank = find(context), rank_of(context)
    if message_type == "train":
        reply = worker.train(rank, unpack(content))
        return pack(reply) if PACKED in content else reply
    if message_type == "evaluate":
        return worker.evaluate(rank, unpack(content))
    return worker.roster(rank, TrainInstructions.from_config(content.config_records[CONFIG]), packs)


def rank_of(context: Context) -> int:
    """Return the worker's rank: ``rank`` or Flower's ``partition-id`` in its node configuration.

    Raises
    ------
    KeyError
        If the node has neither.
    """
    for name in ("rank", "partition-id"):
        if name in context.node_config:
            return int(context.node_config[name])
    raise KeyError("node-config must give rank (or partition-id): start the SuperNode with --node-config 'rank=0 ...'")


def _worker(
    key: str,
    load_data: Callable[..., Any],
    build_model: "Callable[[], nn.Module]",
    options: dict[str, Any],
    context: Context,
) -> "Worker":
    """Return this process's worker of the app ``key``, with the node's data; that of another app makes room for it."""
    if key not in _workers:
        from .worker import Worker

        _workers.clear()
        _workers[key] = Worker(build_model, **{**options, **_of_node(context)})

    def load() -> Any:
        if len(inspect.signature(load_data).parameters) == 1:
            return load_data(context)
        return load_data(rank_of(context), int(context.node_config["num-partitions"]))

    _workers[key].hold(rank_of(context), load)
    return _workers[key]


def _of_node(context: Context) -> dict[str, Any]:
    """Return the options that a node's own configuration decides: where it computes, and how fast at most."""
    options: dict[str, Any] = {}
    if "device" in context.node_config:
        options["device"] = str(context.node_config["device"])
    if "samples-per-second" in context.node_config:
        options["speed_limit"] = float(context.node_config["samples-per-second"])
    return options
